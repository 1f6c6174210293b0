/** The health check of the image. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { childEnv } from '../support/child-env.js'

const CHECK = fileURLToPath(new URL('../../deploy/healthcheck.mjs', import.meta.url))

async function check(env: Record<string, string>): Promise<number | null> {
  const child = spawn(process.execPath, [CHECK], { env: childEnv(env), stdio: 'inherit' })
  const [code] = await once(child, 'exit')
  return code
}

for (const [listens, hosts] of [
  ['127.0.0.1', ['', '0.0.0.0', '127.0.0.1', 'localhost', ' ']],
  ['::1', ['::', '::1']],
] as const) {
  t.test(`a service on ${listens} is asked there, whatever HOST stands for it`, async t => {
    let status = 200
    const asked: (string | undefined)[] = []
    const server = createServer((request, response) => {
      asked.push(request.url)
      response.writeHead(status).end()
    })
    server.listen(0, listens)
    await once(server, 'listening')
    t.teardown(() => server.close())
    const PORT = `${(server.address() as AddressInfo).port}`
    for (const HOST of hosts) t.equal(await check({ HOST, PORT }), 0, `HOST=${HOST}`)
    t.strictSame([...new Set(asked)], ['/health/ready'])
    status = 503
    t.equal(await check({ HOST: hosts[0], PORT }), 1, 'it is not ready')
    server.close()
    await once(server, 'close')
    t.equal(await check({ HOST: hosts[0], PORT }), 1, 'nobody listens')
  })
}

t.test('the image runs this check', async t => {
  const dockerfile = readFileSync(new URL('../../Dockerfile', import.meta.url), 'utf8')
  t.match(dockerfile, /COPY .*deploy\/healthcheck\.mjs .*\n/)
  t.match(dockerfile, /HEALTHCHECK .*CMD \["node", "healthcheck\.mjs"\]/)
})
