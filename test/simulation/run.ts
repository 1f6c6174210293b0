/** Runs one plan with the real code of the plugin, and tells what was wrong with it. */
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Outcome } from '../../plugin/src/limiter.js'
import { History, type Unit } from './oracle.js'
import { isLone, type Plan, type Step } from './plan.js'
import { LiveDecision, Registration } from './plugin.js'
import type { SimulatedRedis } from './redis.js'
import { enter } from './virtual.js'
import { type Call, nameOf, type Process, World } from './world.js'

type Decided = Extract<Outcome, { listed: false }>

/** Milliseconds beyond `storeTimeout` that an answer may take: timers are late by up to 1.5 ms, twice. */
const LATE_US = 6000
/** How long calls that nobody waits for may run after the end: the patience of the return. */
const DRAIN_US = 3_000_000

/** Steps back that the log takes for entries ahead of the clock: STEP in log.lua. */
const SMALL_STEP_MS = 100

export interface Outcomes {
  /** What was wrong, in words; empty where all was right. */
  readonly wrong: readonly string[]
  readonly units: number
  readonly denials: number
  readonly calls: number
}

/** One app that is limited. */
class Replica {
  readonly process: Process
  readonly registration: Registration
  /** What it has admitted, for refunds. */
  readonly admitted: { readonly decision: LiveDecision; readonly units: Unit[] }[] = []
  /** How it ends what it opened besides its registration. */
  readonly closers: (() => unknown)[] = []
  isClosed = false
  /** Whether it has had any answer of the store. */
  hasSeenStore = false

  constructor(process: Process, { settings }: Plan) {
    this.process = process
    enter(process)
    const { policies, cost, precision, prefetch, denyMemory, storeTimeoutMs, onStoreError } = settings
    const host = {
      prefix: 'simulation',
      log: { info() {}, warn() {}, error() {} },
      server: {},
      addHook: (_name: string, close: () => unknown) => this.closers.push(close),
    }
    this.registration = new Registration(host as unknown as FastifyInstance, {
      redis: process.client,
      nameSpace: 'simulation',
      policies: policies.map(({ max, windowMs }, index) => ({ name: `p${index}`, max, timeWindow: windowMs, cost })),
      precision,
      prefetch,
      denyMemory,
      storeTimeout: storeTimeoutMs,
      onStoreError,
      keyGenerator: request => (request as unknown as { key: string }).key,
    })
  }

  get main(): Registration['main'] {
    return this.registration.main
  }
}

export interface Watch {
  /** Filled with a line for each thing that happens. */
  readonly trace?: string[]
  /** Called with each script call that has run, and the time by the clock of the server. */
  readonly onCall?: (call: Call, clockUs: number) => void
}

export async function run(plan: Plan, redis: SimulatedRedis, watch: Watch = {}): Promise<Outcomes> {
  return new Run(plan, redis, watch).run()
}

class Run {
  readonly #plan: Plan
  readonly #world: World
  readonly #history: History
  readonly #replicas: Replica[] = []
  readonly #wrong: string[] = []
  /** Checks that have no answer, with the time at which they are to have one. */
  readonly #open = new Set<{ readonly what: string; readonly by: number; readonly process: Process }>()
  /** Lone keys that wait for their `retryAfterMs`, and nothing else. */
  readonly #resting = new Set<string>()
  #denials = 0
  #calls = 0

  constructor(plan: Plan, redis: SimulatedRedis, { trace, onCall }: Watch) {
    this.#plan = plan
    this.#world = new World(plan.seed, redis, trace)
    this.#history = new History(plan)
    const { server } = this.#world
    server.onRun = (call, reply) => {
      this.#ran(call, reply)
      onCall?.(call, server.clockUs)
    }
  }

  async run(): Promise<Outcomes> {
    const world = this.#world
    for (const step of this.#plan.steps) world.happen(step.at, () => this.#do(step))
    const onRejection = (error: unknown) => this.#wrong.push(`an unhandled rejection: ${error}`)
    process.on('unhandledRejection', onRejection)
    try {
      await world.run(this.#plan.endUs)
      for (const replica of this.#replicas) this.#close(replica)
      await world.run(this.#plan.endUs + DRAIN_US)
    } finally {
      process.off('unhandledRejection', onRejection)
      enter(undefined)
    }
    for (const { what, process } of this.#open) if (process.isAlive) this.#wrong.push(`${what} never ended`)
    for (const { process } of this.#replicas) {
      if (process.timers.size > 0) this.#wrong.push(`${process.name} is closed and has ${process.timers.size} timers`)
    }
    this.#wrong.push(...this.#history.wrong())
    return { wrong: this.#wrong, units: this.#history.units.length, denials: this.#denials, calls: this.#calls }
  }

  get #now(): number {
    return this.#world.nowUs
  }

  #do(step: Step): void {
    const world = this.#world
    const { server } = world
    world.tell(() => `— ${JSON.stringify(step)}`)
    switch (step.act) {
      case 'start':
        this.#start()
        return
      case 'freeze':
        this.#history.outage(this.#now, this.#now + step.forUs, false)
        server.freeze()
        world.happen(this.#now + step.forUs, () => server.thaw())
        return
      case 'stop':
        this.#history.outage(this.#now, this.#now + step.forUs, step.empties)
        server.stop(step.empties)
        world.happen(this.#now + step.forUs, () => this.#serverIsBack())
        return
      case 'refuse':
        this.#history.outage(this.#now, this.#now + step.forUs, false)
        server.refusal = step.error
        world.happen(this.#now + step.forUs, () => {
          server.refusal = undefined
        })
        return
      case 'flush':
        this.#history.flushed(this.#now, server.clockUs)
        server.flush()
        return
      case 'forgetScripts':
        server.forgetScripts()
        return
      case 'clock':
        if (step.byUs > 0) this.#history.jumped(this.#now)
        server.aheadUs += step.byUs
        return
    }
    const replica = this.#replicas[step.replica]
    if (replica === undefined || !replica.process.isAlive || replica.isClosed) return
    const { process } = replica
    const { client } = process
    switch (step.act) {
      case 'kill':
        this.#history.gone(process.id, this.#now)
        client.lose()
        process.kill()
        return
      case 'close':
        world.arrive(this.#now, process, () => this.#close(replica))
        return
      case 'ask':
        for (let index = 0; index < step.count; index++) {
          world.arrive(this.#now + index * step.gapUs, process, () => this.#ask(replica, step.key))
        }
        return
      case 'refund':
        world.arrive(this.#now, process, () => this.#refund(replica, step.pick, step.cost))
        return
      case 'charge':
        world.arrive(this.#now, process, () => this.#charge(replica, step.pick, step.cost))
        return
      case 'status':
        world.arrive(this.#now, process, () => void settled(() => replica.main.status(step.key, undefined)))
        return
      case 'reset':
        world.arrive(this.#now, process, () => void settled(() => replica.registration.reset(step.key)))
        return
      case 'credit':
        world.arrive(this.#now, process, () => void settled(() => replica.main.refund(step.key, step.cost, undefined)))
        return
      case 'stall':
        process.stalledUntil = Math.max(process.stalledUntil, this.#now + step.forUs)
        return
      case 'loseCalls':
      case 'loseAnswers':
      case 'double':
        client.mishaps[step.act] += step.count
        return
      case 'slow':
        client.mishaps.slow += step.count
        client.mishaps.slowThereUs = step.thereUs
        client.mishaps.slowBackUs = step.backUs
        return
      case 'hold':
        client.heldUntil = Math.max(client.heldUntil, this.#now + step.forUs)
        return
      case 'cut':
        client.lose()
        world.happen(this.#now + step.forUs, () => {
          if (server.isUp) client.regain()
        })
    }
  }

  #start(): void {
    const world = this.#world
    const { rates, wayUs, inOrder } = this.#plan.settings
    const process = world.start(rates[world.processes.length] ?? 1)
    const { client } = process
    client.longestUs = wayUs
    client.inOrder = inOrder
    if (!world.server.isUp) client.status = 'connecting'
    this.#replicas.push(new Replica(process, this.#plan))
    enter(undefined)
  }

  /** Clients connect again, one after the other. */
  #serverIsBack(): void {
    const { server, processes } = this.#world
    server.isUp = true
    for (const { client, id } of processes) {
      this.#world.happen(this.#now + ((id * 37) % 5) * 20_000, () => {
        if (server.isUp) client.regain()
      })
    }
  }

  #close(replica: Replica): void {
    if (replica.isClosed || !replica.process.isAlive) return
    replica.isClosed = true
    this.#history.gone(replica.process.id, this.#now)
    enter(replica.process)
    void settled(async () => {
      await replica.registration.close()
      for (const close of replica.closers) await close()
    })
  }

  #ask(replica: Replica, key: string): void {
    if (replica.isClosed || this.#resting.has(key)) return
    const { process, main } = replica
    const since = this.#now
    const { storeTimeoutMs } = this.#plan.settings
    const what = `the check of ${key} at ${since / 1000} by ${process.name}`
    const open = { what, process, by: since + (storeTimeoutMs * 1000) / process.rate + LATE_US }
    const outcome = main.decide({ key } as unknown as FastifyRequest, false)
    const end = (decided: Decided) => this.#decided(replica, key, since, decided)
    if (!('then' in outcome)) {
      end(outcome as Decided)
      return
    }
    this.#open.add(open)
    const late = () => {
      this.#open.delete(open)
      if (!process.isAlive) return
      // What a stalled process does late is not its fault.
      const by = Math.max(open.by, process.stalledUntil + LATE_US)
      if (this.#now > by) this.#wrong.push(`${what} took ${(this.#now - since) / 1000} ms`)
    }
    outcome.then(
      decided => {
        late()
        end(decided as Decided)
      },
      (error: { code?: string }) => {
        late()
        const code = error?.code ?? (error?.constructor as { code?: string } | undefined)?.code
        if (!code?.startsWith('ML_RATE_')) this.#wrong.push(`${what} was answered with ${error}`)
      },
    )
  }

  #decided(replica: Replica, key: string, since: number, decided: Decided): void {
    const { main, process } = replica
    const { decision, store } = decided
    const { profile, cost } = this.#plan.settings
    const isLocal = store === main.stores[1]
    const call = this.#world.event?.call
    if (store === undefined) return
    if (!isLocal) {
      replica.hasSeenStore = true
      if (call?.ranAt !== undefined) this.#history.answered(process.id, key, call.ranAt)
    }
    if (!decision.allowed) {
      this.#denials++
      this.#world.tell(() => `${process.name} denies ${key}${isLocal ? ' by itself' : ''}, ${decision.retryAfterMs} ms`)
      this.#checkWait(key, decision.retryAfterMs)
      if (profile !== 'calm' || !isLone(key, this.#plan.settings)) return
      this.#history.denied(key, since, this.#now)
      if (this.#plan.settings.rests) this.#rest(replica, key, since, decision.retryAfterMs)
      return
    }
    // Admitted by the call whose answer this is, if it was in that call; else by what the replica had.
    const ranAt = call !== undefined && since <= call.sentAt && !isLocal ? call.ranAt : undefined
    const unit: Unit = {
      key,
      cost,
      at: isLocal ? this.#locallyAt(process, decided) : (ranAt ?? this.#now),
      replica: process.id,
      kind: isLocal ? 'local' : ranAt === undefined ? 'ahead' : 'store',
      isCharge: false,
      hasSeenStore: replica.hasSeenStore,
      admissions: decided.answer?.policies.map(({ admission }) => admission) ?? [],
      refunds: [],
    }
    this.#world.tell(() => `${process.name} admits ${key}: ${unit.kind}, as of ${unit.at / 1000}`)
    this.#history.units.push(unit)
    replica.admitted.push({ decision: new LiveDecision(main, decided), units: [unit] })
  }

  /** Nobody waits longer than the longest window, but for a grant that counts from its end, and small steps of the clock. */
  #checkWait(key: string, retryAfterMs: number): void {
    const { policies, precision, profile } = this.#plan.settings
    const stepMs = profile === 'clocks' ? SMALL_STEP_MS : 0
    const most = Math.max(...policies.map(({ windowMs }) => windowMs * (1 + precision))) + 1 + stepMs
    if (retryAfterMs > most) this.#wrong.push(`${key} is to wait ${retryAfterMs} ms at ${this.#now / 1000}`)
  }

  /** The replica has decided by itself before it asked the store in vain, or after that. */
  #locallyAt(process: Process, { answer }: Decided): number {
    const admission = answer?.policies[0]?.admission
    return admission === undefined ? this.#now : Math.min(this.#now, process.trueUs(admission.time))
  }

  /** A lone client waits as it was told, and is to be admitted then. */
  #rest(replica: Replica, key: string, asked: number, retryAfterMs: number): void {
    if (this.#resting.has(key)) return
    this.#resting.add(key)
    const { process, main } = replica
    const again = this.#now + Math.ceil(retryAfterMs * 1000 * 1.01) + 2000
    if (again > this.#plan.endUs) return
    this.#world.arrive(again, process, async () => {
      if (replica.isClosed) return
      const since = this.#now
      const decided = (await main.decide({ key } as unknown as FastifyRequest, false)) as Decided
      this.#resting.delete(key)
      const isAlone = !this.#history.units.some(unit => unit.key === key && unit.at > asked)
      if (
        isAlone &&
        !decided.decision.allowed &&
        decided.decision.policies.every(({ limit }) => limit >= this.#plan.settings.cost)
      ) {
        this.#wrong.push(
          `${key} waited ${retryAfterMs} ms, as it was told, and was denied again at ${this.#now / 1000}`,
        )
      }
      this.#decided(replica, key, since, decided)
    })
  }

  #refund(replica: Replica, pick: number, cost: number): void {
    const { admitted } = replica
    const one = admitted[admitted.length - 1 - (pick % Math.max(1, admitted.length))]
    if (one === undefined || replica.isClosed) return
    // The newest charge of a decision is given back first.
    let more = cost
    for (const unit of [...one.units].reverse()) {
      const given = Math.min(more, unit.cost - unit.refunds.reduce((sum, refund) => sum + refund.cost, 0))
      if (given > 0) unit.refunds.push({ at: this.#now, cost: given })
      more -= given
    }
    void settled(() => one.decision.refund(cost))
  }

  #charge(replica: Replica, pick: number, cost: number): void {
    const { admitted } = replica
    const one = admitted[admitted.length - 1 - (pick % Math.max(1, admitted.length))]
    const [unit] = one?.units ?? []
    if (one === undefined || unit === undefined || replica.isClosed) return
    const since = this.#now
    one.decision.charge(cost).then(
      () => {
        const call = this.#world.event?.call
        if (call === undefined || call.sentAt < since || call.ranAt === undefined) return
        const charge: Unit = { ...unit, cost, at: call.ranAt, kind: 'store', isCharge: true, refunds: [] }
        this.#history.units.push(charge)
        one.units.push(charge)
      },
      () => {},
    )
  }

  #ran(call: Call, reply: unknown): void {
    this.#calls++
    const name = nameOf(call.script)
    if (name === 'RESET' && Number(reply) >= 0) {
      this.#history.reset(keyIn(call.keys[0]), this.#now, this.#world.server.clockUs)
    } else if (name === 'REFUND') {
      for (const [index, value] of (reply as unknown[]).slice(1).entries()) {
        const given = Number(value)
        if (!(given > 0)) continue
        const key = keyIn(call.keys[1 + index])
        const policy = Number(/p(\d+)$/.exec(call.keys[1 + index] ?? '')?.[1])
        const [flags, generation] = call.args.slice(2 + index * 6 + 3).map(Number)
        // What an operator gives back has no identity. What was taken ahead and not used leaves no trace.
        if (generation === 0) this.#history.credited(key, policy, this.#now, given)
        else if ((flags as number) < 2) this.#history.returned(key, policy, this.#now, given)
      }
    }
  }
}

function keyIn(redisKey: string | undefined): string {
  return /\{(.*)\}/.exec(redisKey ?? '')?.[1] ?? ''
}

async function settled(act: () => unknown): Promise<void> {
  try {
    await act()
  } catch {}
}
