import { readFileSync } from 'node:fs'
import t from 'tap'

const text = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8')

t.test('the README lists every error code of the service', async t => {
  const readme = text('README.md')
  const sources = ['problem', 'json-body', 'auth', 'app', 'routes/predict', 'routes/health', 'routes/admin']
    .concat(['routes/other-methods', 'inference/errors'])
    .map(name => text(`service/src/${name}.ts`))
    .join('\n')
  const codes = new Set([...sources.matchAll(/'((?:[A-Z]+_)+[A-Z]+)'/g)].map(([, code]) => code as string))
  // Never sent: the caller has gone, or the start fails.
  for (const code of ['INFERENCE_CANCELLED', 'INFERENCE_MODEL_BROKEN', 'INFERENCE_NO_MODELS']) codes.delete(code)
  const others = [...codes].filter(code => /^(?:FST|ERR|HPE)_/.test(code))
  for (const code of [...codes].filter(code => !others.includes(code))) t.ok(readme.includes(`\`${code}\``), code)
  t.ok(codes.size > 20)
})
