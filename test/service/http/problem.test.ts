import t from 'tap'
import { faultOf } from '../../../service/src/http/problem.js'
import * as errors from '../../../service/src/inference/errors.js'

t.test('each error of inference is answered with the status that fits it', async t => {
  const cases: readonly (readonly [errors.InferenceError, number])[] = [
    [new errors.UnknownModel('none', undefined, ['iris']), 404],
    [new errors.ModelRequired(['digits', 'iris']), 400],
    [new errors.InvalidInput([{ path: 'features', message: 'is missing' }]), 400],
    [new errors.InputRefused('secret'), 400],
    [new errors.Overloaded('limit', '200 rows wait', 2300), 429],
    [new errors.Overloaded('unserved', 'no worker is up', 2300), 503],
    [new errors.WorkerLost('exit code 134'), 503],
    [new errors.BackendUnavailable('no backend of this model can be reached'), 503],
    [new errors.BackendFailed('secret'), 503],
    [new errors.Stopping(), 503],
    [new errors.DeadlineExceeded(true), 504],
    [new errors.Cancelled(), 499],
    [new errors.RunFailed('secret'), 500],
  ]
  for (const [error, status] of cases) {
    const fault = faultOf(error)
    t.equal(fault.status, status, error.code)
    t.equal(fault.code, error.code)
    t.notMatch(fault.detail, /secret|134/, error.code)
  }
  t.equal(faultOf(new errors.Overloaded('limit', '200 rows wait', 2300), 503).status, 503, 'where the setting says so')
})
