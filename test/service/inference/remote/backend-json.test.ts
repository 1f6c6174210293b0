import t from 'tap'
import { backendFault, backendSettings } from '../../../../service/src/inference/remote/backend-json.js'

const urls = ['http://triton:8000']
const x = { name: 'x', datatype: 'FP32', shape: [-1, 2] }

/** As a file has it, where it means an environment variable. */
const variable = (name: string) => `\u0024{${name}}`

t.test('headers and tokens of a backend are sent as they are, with variables of the environment filled in', async t => {
  const settings = (json: object, env = {}) => backendSettings('model', { urls, ...json }, env)
  t.strictSame(settings({}).headers, {})
  t.strictSame(settings({ headers: { 'x-tenant': 'a' }, token: 'abc' }).headers, {
    'x-tenant': 'a',
    authorization: 'Bearer abc',
  })
  const env = { TOKEN: 'secret\n', USER_NAME: 'me' }
  t.strictSame(settings({ token: variable('TOKEN') }, env).headers, { authorization: 'Bearer secret' })
  t.strictSame(settings({ headers: { 'x-user': `${variable('USER_NAME')}!` } }, env).headers, { 'x-user': 'me!' })
  t.throws(() => settings({ token: variable('NOT_THERE') }, env), { message: /variable 'NOT_THERE' is not set/ })
})

t.test('what a backend takes no headers, tokens or signatures for is said', async t => {
  const fault = (json: object) => backendFault({ urls, ...json })
  for (const json of [
    { headers: { 'X-Tenant': 'a', host: 'models.example' } },
    { token: variable('TOKEN') },
    { signature: { inputs: [x], outputs: [{ ...x, name: 'y', shape: [2, 3] }] } },
  ]) {
    t.equal(fault(json), undefined, JSON.stringify(json))
  }
  for (const [json, expected] of [
    [{ headers: ['a'] }, /'headers' an object of texts by header name/],
    [{ headers: { 'x y': 'a' } }, /'headers'/],
    [{ headers: { 'x-tenant': 1 } }, /'headers'/],
    [{ headers: { 'x-tenant': 'a\r\nx: b' } }, /'headers'/],
    [{ headers: { 'Content-Length': '1' } }, /without .*content-length/],
    [{ token: '' }, /'token'/],
    [{ token: 'a\nb' }, /'token'/],
    [{ token: 'a', headers: { Authorization: 'b' } }, /one of 'token' and 'headers.authorization'/],
    [{ signature: { inputs: [x] } }, /'signature' an object with "inputs" and "outputs"/],
    [{ signature: { inputs: [x], outputs: [] } }, /'signature'/],
    [{ signature: { inputs: [{ ...x, datatype: 'COMPLEX' }], outputs: [x] } }, /'signature'/],
    [{ signature: { inputs: [x], outputs: [x], more: [] } }, /'signature'/],
  ] as const) {
    t.match(fault(json), expected, JSON.stringify(json))
  }
})
