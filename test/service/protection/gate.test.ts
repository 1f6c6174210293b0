import { EventEmitter } from 'node:events'
import type { ServerResponse } from 'node:http'
import t from 'tap'
import { Overloaded } from '../../../service/src/inference/errors.js'
import { Gate, GateLimit } from '../../../service/src/protection/gate.js'

/** One window: so many ask, those that pass are `served` or refused behind the gate, some stay. */
function windowOf(gate: GateLimit, { asked, served, delayMs }: { asked: number; served: number; delayMs: number }) {
  let passed = 0
  for (let i = 0; i < asked; i++) {
    if (!gate.hasRoom()) continue
    gate.enter()
    passed++
  }
  for (let i = 0; i < Math.min(passed, served); i++) gate.leave(true)
  gate.adapt(delayMs)
  return passed
}

t.test('while the event loop keeps up, everybody passes', async t => {
  const gate = new GateLimit()
  for (let i = 0; i < 50; i++) t.equal(windowOf(gate, { asked: 1000, served: 1000, delayMs: 5 }), 1000)
})

t.test('a main thread that drowns lets fewer pass, by and by, but always some', async t => {
  const gate = new GateLimit()
  t.equal(windowOf(gate, { asked: 400, served: 0, delayMs: 60 }), 400)
  t.equal(gate.limit, 320)
  for (let i = 0; i < 50; i++) windowOf(gate, { asked: 400, served: 20, delayMs: 60 })
  t.equal(gate.limit, 32)
})

t.test('a slow turn that is not the doing of the callers refuses nobody', async t => {
  const gate = new GateLimit()
  for (let i = 0; i < 20; i++) {
    t.equal(windowOf(gate, { asked: 200, served: 200, delayMs: 80 }), 200, 'a busy machine: all are answered')
    t.equal(windowOf(gate, { asked: 5, served: 0, delayMs: 80 }), 5, 'a few')
  }
})

t.test('when the flood is over the gate opens within a second', async t => {
  const gate = new GateLimit()
  for (let i = 0; i < 50; i++) windowOf(gate, { asked: 400, served: 0, delayMs: 60 })
  while (gate.limit > 32) windowOf(gate, { asked: 400, served: 0, delayMs: 60 })
  for (let i = 0; i < 10; i++) {
    for (let left = 0; left < 500; left++) gate.leave(true)
    gate.adapt(2)
  }
  t.ok(gate.limit > 10_000, `${gate.limit}`)
})

t.test('what is late already when it is seen is refused at once, and nothing else', async t => {
  const gate = new Gate()
  t.teardown(() => gate.close())
  const come = (timeoutMs: number) => {
    const response = Object.assign(new EventEmitter(), { statusCode: 504 })
    const newcomer = { models: [], priority: 0, arrivedAt: performance.now(), timeoutMs }
    const refusal = gate.pass(newcomer, response as unknown as ServerResponse)
    // Nobody has been answered in time.
    response.emit('close')
    return refusal
  }
  t.equal(come(1), undefined, 'while the event loop keeps up, nobody is late')
  while (gate.delayMs === 0) {
    for (let i = 0; i < 100; i++) come(60_000)
    for (const end = performance.now() + 120; performance.now() < end; );
    await new Promise(resolve => setTimeout(resolve, 1))
  }
  const { delayMs } = gate
  t.type(come(delayMs / 2), Overloaded)
  t.equal(come(delayMs * 2), undefined)
})
