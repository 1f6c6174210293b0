import { readFileSync } from 'node:fs'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { createServer as createTlsServer } from 'node:tls'
import type { Test } from 'tap'

/** Stands between a client and a Redis process, and makes of the connection what a test wants. */
export interface RedisProxy {
  readonly port: number
  /** How long an answer of Redis is held back. */
  delayMs: number
  /** Requests reach Redis, and no answer comes back. */
  dropsAnswers: boolean
  /** Ends all connections; clients may come again. */
  cut(): void
  /** Shows this certificate to whoever connects from now on. Only where it speaks TLS. */
  show(certificate: Certificate): void
}

/** A key and a certificate that it signed itself: tests trust the one and not the other. */
export type Certificate = 'trusted' | 'unknown'

export function certificate(name: Certificate): string {
  return readFileSync(new URL(`tls/${name}.pem`, import.meta.url), 'utf8')
}

/** `tls`: it speaks TLS to its clients, with this certificate. */
export async function startProxy(t: Test, redisPort: number, tls?: Certificate): Promise<RedisProxy> {
  const sockets = new Set<Socket>()
  const pass = (client: Socket) => {
    const redis = connect(redisPort, '127.0.0.1')
    for (const socket of [client, redis]) {
      sockets.add(socket)
      socket.setNoDelay(true)
      socket.on('error', () => {})
      socket.on('close', () => {
        sockets.delete(socket)
        client.destroy()
        redis.destroy()
      })
    }
    client.on('data', data => redis.write(data))
    let said = Promise.resolve()
    redis.on('data', data => {
      if (proxy.dropsAnswers) return
      const arrived = performance.now()
      const { delayMs } = proxy
      // One after the other, so that none comes before what Redis has said earlier.
      said = said.then(async () => {
        const left = arrived + delayMs - performance.now()
        if (left > 0) await delay(left, undefined, { ref: false })
        client.write(data)
      })
    })
  }
  const context = (name: Certificate) => ({ key: certificate(name), cert: certificate(name) })
  const secure = tls === undefined ? undefined : createTlsServer(context(tls), pass)
  const server = secure ?? createServer(pass)
  secure?.on('tlsClientError', () => {})
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const cut = () => {
    for (const socket of sockets) socket.destroy()
  }
  t.teardown(() => {
    server.close()
    cut()
  })
  const proxy: RedisProxy = {
    port: (server.address() as AddressInfo).port,
    delayMs: 0,
    dropsAnswers: false,
    cut,
    show: name => secure?.setSecureContext(context(name)),
  }
  return proxy
}
