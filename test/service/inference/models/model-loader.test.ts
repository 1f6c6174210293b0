import t from 'tap'
import { threadsFor } from '../../../../service/src/inference/models/model-loader.js'

t.test('the workers of a model share the threads of all workers there are', async t => {
  t.equal(threadsFor(undefined, 8), 1, 'each its own, where every worker has the model')
  t.equal(threadsFor(1, 8), 8, 'one takes them all')
  t.equal(threadsFor(3, 8), 2)
  t.equal(threadsFor(8, 8), 1)
  t.equal(threadsFor(9, 8), 1, 'never none')
})
