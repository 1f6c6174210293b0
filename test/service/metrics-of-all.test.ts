import t from 'tap'
import { MetricsOfAll } from '../../service/src/metrics/of-all.js'
import { sumOf } from '../../service/src/metrics/sum.js'
import { readinessOfAll } from '../../service/src/routes/health.js'

const text = (served: number, up: number, rows: number) => `# HELP served_total Answered.
# TYPE served_total counter
served_total{route="/a b"} ${served}

# HELP rate_limit_store_up Up.
# TYPE rate_limit_store_up gauge
rate_limit_store_up ${up}

# HELP inference_queue_rows Rows.
# TYPE inference_queue_rows gauge
inference_queue_rows ${rows}

# HELP wait_seconds Wait.
# TYPE wait_seconds histogram
wait_seconds_bucket{le="+Inf"} ${served}
wait_seconds_sum ${served / 2}
wait_seconds_count ${served}
`

t.test('counts and histograms are summed, states are the worst, and each family is told once', async t => {
  const sum = sumOf([text(2, 1, 5), text(3, 0, 7).replace('/a b', '/c')])
  t.match(sum, 'served_total{route="/a b"} 2\nserved_total{route="/c"} 3\n')
  t.match(sum, 'wait_seconds_bucket{le="+Inf"} 5\nwait_seconds_sum 2.5\nwait_seconds_count 5\n')
  t.match(sum, 'rate_limit_store_up 0\n')
  t.match(sum, 'inference_queue_rows 12\n')
  t.equal(sum.match(/# TYPE served_total/g)?.length, 1)
  t.equal(sumOf([sum]), sum, 'of one it is the same')
  t.match(sumOf(['# TYPE gate_limit_requests gauge\ngate_limit_requests +Inf\n']), 'gate_limit_requests +Inf')
})

t.test('no count falls when a process ends or does not answer, and its states end with it', async t => {
  const all = new MetricsOfAll()
  const told = (answers: readonly (string | undefined)[], pids: readonly number[]) => {
    const given = answers.map(value => (value === undefined ? ('late' as const) : { value }))
    const { texts, ended } = all.texts({ expected: 2, wereReady: true, answers: given }, pids, pids.length, 0)
    return sumOf(texts, [ended])
  }
  const served = (sum: string) => Number(/^served_total.* (.*)$/m.exec(sum)?.[1])
  t.equal(served(told([text(2, 1, 5), text(3, 1, 7)], [1, 2])), 5)
  t.equal(served(told([text(3, 1, 5), undefined], [1, 2])), 6)
  all.ended(2)
  const after = told([text(4, 1, 5)], [1])
  t.equal(served(after), 7)
  t.match(after, 'inference_queue_rows 5\n')
  t.equal(served(told([text(4, 1, 5), text(1, 1, 0)], [1, 3])), 8)
})

t.test('several processes are ready once all are; later one that is not leaves them degraded', async t => {
  const ready = { value: { status: 'ready', store: 'up', models: ['iris'] } } as const
  const loading = { value: { status: 'loading', loading: ['iris'], loaded: [] } } as const
  const stopping = { value: { status: 'refused', code: 'STOPPING', detail: 'the service is stopping' } } as const
  const of = (wereReady: boolean, ...answers: Parameters<typeof readinessOfAll>[0]['answers']) =>
    readinessOfAll({ expected: 2, wereReady, answers })
  t.match(of(false, ready, loading), { status: 'loading' })
  t.match(of(false, ready, 'starting'), { status: 'refused', code: 'NOT_READY', detail: /1 of 2 processes is not/ })
  t.match(of(false, ready), { status: 'refused' })
  t.match(of(true, ready, ready), { status: 'ready', models: ['iris'] })
  t.match(of(true, ready, loading), { status: 'degraded', reasons: ['1 of 2 processes is not ready'] })
  t.match(of(true, ready, 'late'), { status: 'degraded' })
  t.match(of(true, 'late', loading), { status: 'loading' })
  t.match(of(true, ready, stopping), { status: 'degraded' }, 'one may be told to stop alone')
  t.match(of(true, stopping, stopping), { status: 'refused', code: 'STOPPING' })
  t.match(of(true, 'late', 'late'), { status: 'refused', detail: '2 of 2 processes are not ready' })
})
