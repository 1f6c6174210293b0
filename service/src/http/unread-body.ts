/** Answers that go out before the body of their request has arrived: refusals by headers, and by too many bytes. */
import type { IncomingMessage } from 'node:http'

/** Whether some of the body is still to come. */
export const isUnread = ({ complete, headers }: IncomingMessage): boolean =>
  complete === false && (headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0')

/**
 * Reads the rest of a body and throws it away, at most `mostBytes` of it. To close on what is still arriving would reset
 * the connection, and most clients read the answer only once they have sent everything: they would never see it. The
 * server's own limit on the time of a request ends what arrives too slowly.
 */
export function discardRest(request: IncomingMessage, mostBytes: number): void {
  const { socket } = request
  let bytes = 0
  request.on('data', (chunk: Buffer) => {
    bytes += chunk.length
    if (bytes > mostBytes) socket.destroy()
  })
  // Node calls this behind an answer that is the last of its connection.
  const destroySoon = socket.destroySoon
  let isOver = false
  socket.destroySoon = () => {
    isOver = true
    // Says that nothing follows; what is still on its way is read all the same.
    socket.end()
  }
  request.once('end', () => {
    socket.destroySoon = destroySoon
    if (isOver) socket.destroySoon()
  })
}
