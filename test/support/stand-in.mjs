// Stands in for a replica: answers every prediction with its own number. Arguments: host, port (0: any free one), and how
// many connections may wait to be accepted.
import { createServer } from 'node:http'

const [host, port, backlog = '511'] = process.argv.slice(2)
const server = createServer((request, response) => {
  request.resume()
  request.on('end', () => {
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify({ replica: process.pid }))
  })
})
server.keepAliveTimeout = 72_000
server.listen({ host, port: Number(port), backlog: Number(backlog) }, () =>
  process.stdout.write(`${server.address().port}\n`),
)
