import { EventEmitter } from 'node:events'
import type { ServerResponse } from 'node:http'
import t from 'tap'
import { Overloaded } from '../../../service/src/inference/errors.js'
import { Gate, GateLimit } from '../../../service/src/protection/gate.js'

interface Window {
  readonly asked: number
  readonly served: number
  readonly delayMs: number
  /** Milliseconds that callers give. */
  readonly timeoutMs?: number
}

/** One window after the other: so many ask, those that pass are `served` or refused behind the gate, some stay. */
function windowsOf(gate: GateLimit) {
  let now = 0
  return ({ asked, served, delayMs, timeoutMs = 200 }: Window) => {
    let passed = 0
    for (let i = 0; i < asked; i++) {
      if (!gate.hasRoom(timeoutMs, now)) continue
      gate.enter()
      passed++
    }
    for (let i = 0; i < Math.min(passed, served); i++) gate.leave(true)
    gate.adapt(delayMs, now)
    now += 100
    return passed
  }
}

t.test('while the event loop keeps up, everybody passes', async t => {
  const gate = new GateLimit()
  const pass = windowsOf(gate)
  for (let i = 0; i < 50; i++) t.equal(pass({ asked: 1000, served: 1000, delayMs: 5 }), 1000)
})

t.test('a main thread that drowns lets fewer pass, by and by, but always some', async t => {
  const gate = new GateLimit()
  const pass = windowsOf(gate)
  t.equal(pass({ asked: 400, served: 0, delayMs: 60 }), 400)
  t.equal(gate.limit, 320)
  for (let i = 0; i < 50; i++) pass({ asked: 400, served: 20, delayMs: 60 })
  t.equal(gate.limit, 32)
})

t.test('a slow turn that is not the doing of the callers refuses nobody', async t => {
  const gate = new GateLimit()
  const pass = windowsOf(gate)
  for (let i = 0; i < 20; i++) {
    t.equal(pass({ asked: 200, served: 200, delayMs: 80 }), 200, 'a busy machine: all are answered')
    t.equal(pass({ asked: 5, served: 0, delayMs: 80 }), 5, 'a few')
  }
})

t.test('a burst is let in whole by who can wait for it, and a flood is not', async t => {
  const gate = new GateLimit()
  const pass = windowsOf(gate)
  const late = { served: 20, delayMs: 60 }
  for (let i = 0; i < 5; i++) t.equal(pass({ ...late, asked: 400, timeoutMs: 5000 }), 400, 'half a second of it')
  t.equal(pass({ ...late, asked: 400, timeoutMs: 200 }), 0, 'not by who has no time for it')
  for (let i = 0; i < 10; i++) pass({ ...late, asked: 400, timeoutMs: 5000 })
  t.equal(pass({ ...late, asked: 400, timeoutMs: 60_000 }), 0, 'more than a second is no burst')
  for (let left = 0; left < 5000; left++) gate.leave(true)
  pass({ asked: 10, served: 10, delayMs: 2 })
  t.equal(pass({ ...late, asked: 400, timeoutMs: 5000 }), 400, 'and the next one is one again')
})

t.test('a turn that takes much of the time that a caller gives is no burst to it', async t => {
  const pass = windowsOf(new GateLimit())
  pass({ asked: 400, served: 20, delayMs: 900, timeoutMs: 4000 })
  t.equal(pass({ asked: 400, served: 20, delayMs: 900, timeoutMs: 4000 }), 0)
  t.equal(pass({ asked: 400, served: 20, delayMs: 900, timeoutMs: 10_000 }), 400)
})

t.test('how late the event loop may be is a setting', async t => {
  const gate = new GateLimit(100)
  const pass = windowsOf(gate)
  for (let i = 0; i < 20; i++) t.equal(pass({ asked: 400, served: 0, delayMs: 90 }), 400)
  pass({ asked: 400, served: 0, delayMs: 110 })
  t.ok(gate.limit < 400 * 21)
})

t.test('when the flood is over the gate opens within a second', async t => {
  const gate = new GateLimit()
  const pass = windowsOf(gate)
  for (let i = 0; i < 50; i++) pass({ asked: 400, served: 0, delayMs: 60 })
  while (gate.limit > 32) pass({ asked: 400, served: 0, delayMs: 60 })
  for (let i = 0; i < 10; i++) {
    for (let left = 0; left < 500; left++) gate.leave(true)
    gate.adapt(2, 0)
  }
  t.ok(gate.limit > 10_000, `${gate.limit}`)
})

t.test('what is late already when it is seen is refused at once, and nothing else', async t => {
  const gate = new Gate()
  t.teardown(() => gate.close())
  const come = (timeoutMs: number) => {
    const response = Object.assign(new EventEmitter(), { statusCode: 504 })
    const newcomer = { models: [], priority: 0, partitionKey: undefined, arrivedAt: performance.now(), timeoutMs }
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
