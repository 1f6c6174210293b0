import { createServer } from 'node:net'
import t from 'tap'
import { readConfig } from '../../service/src/config.js'
import { warmUp } from '../../service/src/warm.js'

const resources = () => process.getActiveResourcesInfo().filter(name => /TCP|Timeout|Pipe/.test(name)).length

t.test('warming up says nothing, and leaves no connection and no timer behind', async t => {
  const written: string[] = []
  const { write } = process.stdout
  t.teardown(() => {
    process.stdout.write = write
  })
  const before = resources()
  process.stdout.write = ((text: string) => written.push(text) > 0) as typeof write
  await warmUp(readConfig({}), () => false)
  process.stdout.write = write
  t.strictSame(
    written.filter(text => text.startsWith('{')),
    [],
  )
  for (const end = performance.now() + 30_000; resources() > before && performance.now() < end; )
    await new Promise(setImmediate)
  t.ok(resources() <= before, `${resources()} and not ${before}`)
})

t.test('a service that is told to stop does not warm up to the end', async t => {
  let asked = 0
  await warmUp(readConfig({}), () => ++asked > 3)
  t.ok(asked < 100, `${asked}`)
})

t.test('warming up needs no port of the service, and takes any settings', async t => {
  const other = createServer().listen(0, '127.0.0.1')
  t.teardown(() => other.close())
  await new Promise(resolve => other.once('listening', resolve))
  const { port } = other.address() as { port: number }
  for (const settings of [
    { PORT: `${port}`, HOST: '127.0.0.1', METRICS: 'off', EVENTS: 'off', ADMISSION: 'off' },
    { CORS_ORIGINS: 'https://app.example', LOG_LEVEL: 'debug', SDK_HEADERS: 'openai', BEARER_KEYS: 'on' },
    { MAX_CONNECTIONS: '1', OVERLOAD_STATUS: '503', REDIS_URL: 'redis://127.0.0.1:1' },
  ]) {
    await t.resolves(warmUp(readConfig(settings), () => false))
  }
})
