// The health check of the image: ends with 0 if the service is ready, else with 1. Asks where HOST and PORT say that it
// listens; the addresses that stand for all interfaces are asked on the loopback one.
const { HOST, PORT } = process.env
const host = HOST?.trim() || '0.0.0.0'
const asked = { '0.0.0.0': '127.0.0.1', '::': '::1' }[host] ?? host
const url = `http://${asked.includes(':') ? `[${asked}]` : asked}:${PORT?.trim() || 3000}/health/ready`
try {
  const { ok } = await fetch(url, { signal: AbortSignal.timeout(2500) })
  process.exitCode = ok ? 0 : 1
} catch {
  process.exitCode = 1
}
