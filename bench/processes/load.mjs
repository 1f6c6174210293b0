// Clients that ask again as soon as they are answered, for measure.mjs, which starts this.
import { connect } from 'node:net'

const BODY = JSON.stringify({ model: 'digits', features: Array.from({ length: 64 }, (_, index) => index % 17) })
const HEAD = ['POST /v1/predict HTTP/1.1', 'host: bench', 'content-type: application/json']
const REQUEST = Buffer.from([...HEAD, `content-length: ${BODY.length}`, '', BODY].join('\r\n'))
let answered = 0
let unexpected = 0

process.on('message', message => {
  if (message === 'count') {
    const { user, system } = process.cpuUsage()
    process.send({ answered, unexpected, cpu: user + system })
    return
  }
  for (let index = 0; index < message.connections; index++) open(message.port)
  process.send('open')
})
process.on('disconnect', () => process.exit())

function open(port) {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true }, () => socket.write(REQUEST))
  let text = ''
  socket.on('data', data => {
    text += data.toString('latin1')
    const head = text.indexOf('\r\n\r\n')
    const length = Number(/content-length: (\d+)/i.exec(text)?.[1])
    if (head < 0 || text.length < head + 4 + length) return
    const status = text.slice(9, 12)
    if (status !== '200' && status !== '429') unexpected++
    text = ''
    answered++
    socket.write(REQUEST)
  })
  socket.on('error', () => unexpected++)
}
