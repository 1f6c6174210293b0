import { once } from 'node:events'
import { Agent, request } from 'node:http'

const LINE_FEED = 0x0a
const agent = new Agent({ keepAlive: true })

/**
 * Sends a stream of rows as fast as it is taken, and counts the lines that come back.
 *
 * @param {{ port: number, path: string, type: string, accept: string, first: string, piece: string, pieces: number }} task
 */
export async function sendStream({ port, path, type, accept, first, piece, pieces }) {
  const bytes = Buffer.from(piece)
  const length = Buffer.byteLength(first) + pieces * bytes.length
  const headers = { 'content-type': type, accept, 'content-length': length }
  const sent = request({ agent, port, host: '127.0.0.1', method: 'POST', path, headers })
  const answer = once(sent, 'response').then(([response]) => linesOf(response))
  if (first !== '') sent.write(first)
  for (let piecesSent = 0; piecesSent < pieces; piecesSent++) {
    if (!sent.write(bytes)) await Promise.race([once(sent, 'drain'), answer])
  }
  sent.end()
  return answer
}

function linesOf(response) {
  return new Promise((resolve, reject) => {
    let lines = 0
    response.on('data', chunk => {
      for (let at = chunk.indexOf(LINE_FEED); at !== -1; at = chunk.indexOf(LINE_FEED, at + 1)) lines++
    })
    response.on('end', () => resolve({ status: response.statusCode, lines }))
    response.on('error', reject)
  })
}
