import slotOf from 'cluster-key-slot'
import { clearTimeout, monotonic, setImmediate, setTimeout } from '../clock.js'
import { StoreForeignKey, StoreTimeout } from '../errors.js'
import { storedKey } from '../key.js'
import { type Policy, sharesSlices } from '../policy.js'
import type { RedisClient } from './redis-client.js'
import { RedisClock } from './redis-clock.js'
import { Leases } from './redis-leases.js'
import { CHECK, REFUND, type Script } from './scripts.js'
import type { Answer, Check, Penalty, PolicyAnswer, Store } from './store.js'

export interface RedisStoreOptions {
  /** Stands in front of every key. */
  readonly nameSpace: string
  /** Whether no key stands there in clear. */
  readonly hashKeys?: boolean
  /** Milliseconds after which a call is given up. */
  readonly timeoutMs: number
}

/**
 * Checks in one script call. Enough to spread the cost of a command, and few enough that Redis answers the first
 * while this process still reads the rest: with 64 connections on two cores, 8 to 16 in a call gave a tenth more
 * throughput than 64, where process and Redis wait for each other in turn.
 */
const MAX_CHECKS = 16

const OPERATIONS = { peek: 0, check: 1, charge: 2 } as const
const PENALTIES: Readonly<Record<Penalty, number>> = { none: 0, count: 1, renew: 2, backoff: 3 }
/** What stands behind the name of a log for its penalties. */
const PENALTY_LOGS: Readonly<Record<Penalty, string>> = {
  none: '',
  count: ':count',
  renew: ':block',
  backoff: ':block',
}
/** What the script says of a check whose key holds a value that is not ours. */
const FOREIGN = -1

interface Question {
  readonly operation: keyof typeof OPERATIONS
  readonly check: Check
  readonly key: string
  readonly since: number
  settled: boolean
  resolve(answer: Answer): void
  reject(error: unknown): void
}

/** Shapes repeat from request to request where nothing in the options is a function. */
const shapes = new WeakMap<readonly Policy[], string>()

/**
 * Counts in Redis, for all replicas. Checks raised in one turn of the event loop are one script call, since the cost
 * of a command, and not Redis, is what bounds throughput.
 */
export class RedisStore implements Store {
  readonly #redis: RedisClient
  readonly #nameSpace: string
  readonly #hashKeys: boolean
  readonly #timeoutMs: number
  readonly #clock = new RedisClock()
  readonly #leases: Leases
  #waiting: Question[] = []
  #scheduled = false
  /** Runs while there is no connection and somebody waits for one. */
  #patience: NodeJS.Timeout | undefined

  constructor(redis: RedisClient, options: RedisStoreOptions) {
    this.#redis = redis
    this.#nameSpace = options.nameSpace
    this.#hashKeys = options.hashKeys ?? false
    this.#timeoutMs = options.timeoutMs
    this.#leases = new Leases(redis, (script, keys, args) => this.#run(script, keys, args))
  }

  check(check: Check): Promise<Answer> {
    return this.#ask('check', check)
  }

  peek(check: Check): Promise<Answer> {
    return this.#ask('peek', check)
  }

  async charge(check: Check): Promise<void> {
    await this.#ask('charge', check)
  }

  async refund(check: Check): Promise<void> {
    const key = storedKey(check.key, this.#hashKeys)
    const keys = check.policies.map(policy => this.#key(key, policy.log))
    const args = check.policies.flatMap(policy => [policy.cost, policy.windowMs * 1000])
    await this.#within(() => this.#run(REFUND, keys, args))
  }

  async reset(check: Check): Promise<void> {
    const key = storedKey(check.key, this.#hashKeys)
    const logs = check.policies.flatMap(({ log }) => [log, log + PENALTY_LOGS.count, log + PENALTY_LOGS.renew])
    if (check.concurrency !== undefined) logs.push(check.concurrency.log)
    await this.#within(() => this.#redis.del(...logs.map(log => this.#key(key, log))))
  }

  close(): void {
    this.#leases.close()
    this.#stopWaiting()
    this.#dismiss()
  }

  /** All keys of one partition key share a slot of a cluster. */
  #key(key: string, log: string): string {
    return `${this.#nameSpace}{${key}}${log}`
  }

  #ask(operation: Question['operation'], check: Check): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({
        operation,
        check,
        key: storedKey(check.key, this.#hashKeys),
        since: monotonic(),
        settled: false,
        resolve,
        reject,
      })
      // A full call goes out at once, so that Redis is at work on it while the rest of the turn is read.
      if (this.#waiting.length === MAX_CHECKS && this.#redis.status === 'ready') this.#flush()
      else this.#schedule()
    })
  }

  /** The end of this turn of the event loop: right after all that has arrived was read. */
  #schedule(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      this.#flush()
    })
  }

  readonly #flush = (): void => {
    if (this.#waiting.length === 0) return
    const { status } = this.#redis
    if (status !== 'ready') {
      this.#wait(status)
      return
    }
    const waiting = this.#waiting
    this.#waiting = []
    if (this.#redis.isCluster === true) {
      const slots = new Map<number, Question[]>()
      for (const question of waiting) {
        const slot = slotOf(question.key)
        const group = slots.get(slot)
        if (group === undefined) slots.set(slot, [question])
        else group.push(question)
      }
      for (const group of slots.values()) this.#sendAll(group)
    } else {
      this.#sendAll(waiting)
    }
  }

  #sendAll(questions: Question[]): void {
    for (let from = 0; from < questions.length; from += MAX_CHECKS) {
      void this.#send(questions.length <= MAX_CHECKS ? questions : questions.slice(from, from + MAX_CHECKS))
    }
  }

  /**
   * No connection: what waits is kept here and not in the client, whose queue would send it however late, and is given
   * up in time. A client that was closed for good fails at once.
   */
  #wait(status: string): void {
    if (status === 'end') {
      this.#dismiss()
      return
    }
    if (status === 'wait') this.#redis.connect().catch(() => {})
    if (this.#patience !== undefined) return
    const oldest = this.#waiting[0] as Question
    this.#redis.once('ready', this.#onReady)
    this.#patience = setTimeout(this.#giveUp, Math.max(0, oldest.since + this.#timeoutMs - monotonic()))
  }

  #dismiss(): void {
    const waiting = this.#waiting
    this.#waiting = []
    for (const question of waiting) settle(question, new Error('Connection is closed.'))
  }

  readonly #onReady = (): void => {
    this.#stopWaiting()
    this.#schedule()
  }

  readonly #giveUp = (): void => {
    this.#stopWaiting()
    const late = monotonic() - this.#timeoutMs
    const waiting = this.#waiting
    this.#waiting = waiting.filter(question => question.since > late)
    for (const question of waiting) if (question.since <= late) settle(question, new StoreTimeout(this.#timeoutMs))
    if (this.#waiting.length > 0) this.#schedule()
  }

  #stopWaiting(): void {
    clearTimeout(this.#patience)
    this.#patience = undefined
    this.#redis.off('ready', this.#onReady)
  }

  async #send(questions: readonly Question[]): Promise<void> {
    const sent = monotonic()
    const given = { up: false }
    const giveUp = () => {
      // A reply that has arrived while this process was busy is read before the question is given up.
      setImmediate(() => {
        if (given.up) return
        for (const question of questions) settle(question, new StoreTimeout(this.#timeoutMs))
      })
    }
    const { since } = questions[0] as Question
    const timer = setTimeout(giveUp, Math.max(0, since + this.#timeoutMs - sent))
    try {
      const { keys, args } = this.#call(questions, this.#clock.latest(since, this.#timeoutMs))
      const reply = (await this.#run(CHECK, keys, args)) as number[]
      const late = reply.length === 1
      this.#clock.observe(reply[0] as number, sent, monotonic(), late)
      if (late) {
        // It ran too late by what we knew of its clock and changed nothing; those still in time are asked again.
        const inTime = questions.filter(question => !question.settled)
        if (inTime.length > 0) await this.#send(inTime)
      } else {
        this.#answer(questions, reply)
      }
    } catch (error) {
      for (const question of questions) settle(question, error)
    } finally {
      given.up = true
      clearTimeout(timer)
    }
  }

  #call(questions: readonly Question[], latest: number): { keys: string[]; args: (string | number)[] } {
    const keys: string[] = []
    const known = new Map<string, number>()
    const runs: (string | number)[] = []
    let last: Question | undefined
    let run = 0
    for (const question of questions) {
      const { check, key } = question
      for (const { log } of check.policies) {
        keys.push(this.#key(key, log))
        if (check.penalty !== 'none') keys.push(this.#key(key, log + PENALTY_LOGS[check.penalty]))
      }
      if (check.concurrency !== undefined) keys.push(this.#key(key, check.concurrency.log))
      if (last !== undefined && alike(last, question)) {
        ;(runs[run] as number)++
        continue
      }
      last = question
      const shape = shapeOf(question)
      let number = known.get(shape)
      if (number === undefined) {
        number = known.size + 1
        known.set(shape, number)
      }
      run = runs.length
      runs.push(1, number)
      for (const { cost } of check.policies) runs.push(cost)
    }
    const args: (string | number)[] = [latest, known.size]
    for (const shape of known.keys()) args.push(...shape.split(' '))
    args.push(...runs)
    return { keys, args }
  }

  #answer(questions: readonly Question[], reply: readonly number[]): void {
    let at = 1
    for (const question of questions) {
      const { check } = question
      if (reply[at] === FOREIGN) {
        at++
        settle(question, new StoreForeignKey())
        continue
      }
      const policies: PolicyAnswer[] = []
      let allowed = true
      for (let index = 0; index < check.policies.length; index++) {
        const used = reply[at++] as number
        const resetMs = (reply[at++] as number) / 1000
        const retryMs = (reply[at++] as number) / 1000
        if (retryMs > 0) allowed = false
        policies.push({ used, resetMs, retryMs, denials: check.penalty === 'none' ? 0 : (reply[at++] as number) })
      }
      if (check.concurrency === undefined) {
        settle(question, undefined, { allowed, policies })
        continue
      }
      const inFlight = reply[at++] as number
      const number = reply[at++] as number
      const log = this.#key(question.key, check.concurrency.log)
      const lease = number > 0 ? this.#leases.hold(log, number, check.concurrency.ttlMs) : undefined
      // Where nobody waits for the answer any more, the place it took is given back at once.
      if (question.settled) lease?.release()
      const violated = number === -1
      settle(question, undefined, {
        allowed: allowed && !violated,
        policies,
        concurrency: { inFlight, violated, ...(lease && { lease }) },
      })
    }
  }

  /** By hash; with its source when Redis has lost it (restart, failover, SCRIPT FLUSH). Never again after that. */
  async #run(script: Script, keys: readonly string[], args: readonly (string | number)[]): Promise<unknown> {
    try {
      return await this.#redis.evalsha(script.sha, keys.length, ...keys, ...args)
    } catch (error) {
      if (!(error instanceof Error) || !error.message.startsWith('NOSCRIPT')) throw error
      return this.#redis.eval(script.source, keys.length, ...keys, ...args)
    }
  }

  /** Gives a call up after `timeoutMs`, and does not begin it without a connection. */
  async #within<T>(call: () => Promise<T>): Promise<T> {
    if (this.#redis.status === 'end') throw new Error('Connection is closed.')
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => setImmediate(reject, new StoreTimeout(this.#timeoutMs)), this.#timeoutMs)
    })
    try {
      return await Promise.race([call(), late])
    } finally {
      clearTimeout(timer)
    }
  }
}

function settle(question: Question, error: unknown, answer?: Answer): void {
  if (question.settled) return
  question.settled = true
  if (answer === undefined) question.reject(error)
  else question.resolve(answer)
}

/** Whether two questions differ in nothing but their key. */
function alike(a: Question, b: Question): boolean {
  return (
    a.operation === b.operation &&
    a.check.policies === b.check.policies &&
    a.check.penalty === b.check.penalty &&
    a.check.precision === b.check.precision &&
    a.check.concurrency === b.check.concurrency
  )
}

/** The fixed part of a check as the script reads it: numbers apart by blanks. */
function shapeOf({ operation, check }: Question): string {
  const { concurrency, penalty, precision } = check
  let policies = shapes.get(check.policies)
  if (policies === undefined) {
    policies = check.policies
      .map(({ limit, windowMs, keepMs }) => {
        const slice = windowMs * 1000 * precision
        return ` ${limit} ${windowMs * 1000} ${keepMs * 1000} ${slice} ${sharesSlices(limit, precision) ? 1 : 0}`
      })
      .join('')
    shapes.set(check.policies, policies)
  }
  const leases = concurrency === undefined ? '-1 0' : `${concurrency.max} ${concurrency.ttlMs * 1000}`
  return `${OPERATIONS[operation]} ${PENALTIES[penalty]} ${leases} ${check.policies.length}${policies}`
}
