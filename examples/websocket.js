/**
 * A WebSocket server: 3 messages in any 10 seconds for each client address, however many sockets it opens. A message
 * beyond that is answered with the time to wait, and the socket stays open.
 *
 *   node examples/websocket.js
 *
 *   curl 'localhost:3000/'               # 426
 *   npx wscat -c ws://localhost:3000     # then type four messages
 */
import { createServer } from 'node:http'
import { createLimiter } from 'ml-api-rate-limiter/limiter'
import { WebSocketServer } from 'ws'

const limiter = createLimiter({ max: 3, timeWindow: '10 seconds' })
const server = createServer((_request, response) => response.writeHead(426).end('speak WebSocket'))

new WebSocketServer({ server, maxPayload: 65_536 }).on('connection', (socket, request) => {
  const key = request.socket.remoteAddress ?? ''
  socket.on('error', () => {})
  socket.on('message', async data => {
    const { allowed, retryAfterMs } = await limiter.check(key)
    socket.send(allowed ? `echo ${data}` : `wait ${Math.ceil(retryAfterMs / 1000)} s`)
  })
})

server.listen(Number(process.env.PORT ?? 3000), () => {
  console.log(`"Server listening at http://127.0.0.1:${server.address().port}"`)
})
