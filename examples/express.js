/**
 * Express in ten lines: 3 requests in any minute for each client address.
 *
 *   node examples/express.js
 *
 *   curl -i 'localhost:3000/?[1-4]'    # 200 200 200 429, retry-after: 60
 */
import express from 'express'
import { createLimiter } from 'ml-api-rate-limiter/limiter'

const limiter = createLimiter({ max: 3, timeWindow: '1 minute' })
const app = express()

app.use(async (request, response, next) => {
  const { allowed, retryAfterMs } = await limiter.check(request.ip)
  if (allowed) return next()
  response
    .set('retry-after', Math.ceil(retryAfterMs / 1000))
    .status(429)
    .send('Too many requests')
})

app.get('/', (_request, response) => response.send('hello world'))

const server = app.listen(Number(process.env.PORT ?? 3000), () => {
  console.log(`"Server listening at http://127.0.0.1:${server.address().port}"`)
})
