/**
 * Stands in for `tap` where hundreds of mutants are tried: what the tests of the core use of it, and nothing is printed.
 * The first failure is told to `told` of the worker.
 */
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

// The comparisons are those of tap.
const { match, strict } = createRequire(fileURLToPath(import.meta.resolve('tap')))('tcompare')

const { failed } = globalThis.mutation

class Test {
  #title
  #teardowns = []

  constructor(title) {
    this.#title = title
  }

  async run(act) {
    try {
      await act(this)
      for (const teardown of this.#teardowns.reverse()) await teardown()
    } catch (error) {
      failed(`${this.#title}: ${error?.message}`)
    }
  }

  teardown(act) {
    this.#teardowns.push(act)
  }

  #hold(isTrue) {
    if (!isTrue) failed(this.#title)
    return isTrue
  }

  pass() {}

  end() {}

  fail() {
    this.#hold(false)
  }

  ok(value) {
    return this.#hold(Boolean(value))
  }

  notOk(value) {
    return this.#hold(!value)
  }

  equal(found, wanted) {
    return this.#hold(Object.is(found, wanted))
  }

  not(found, wanted) {
    return this.#hold(!Object.is(found, wanted))
  }

  strictSame(found, wanted) {
    return this.#hold(strict(found, wanted).match)
  }

  match(found, pattern) {
    return this.#hold(match(found, pattern).match)
  }

  throws(act, wanted) {
    try {
      act()
    } catch (error) {
      return this.#hold(isWanted(error, wanted))
    }
    return this.#hold(false)
  }

  doesNotThrow(act) {
    try {
      act()
    } catch {
      return this.#hold(false)
    }
    return this.#hold(true)
  }

  async rejects(promise, wanted) {
    try {
      await (typeof promise === 'function' ? promise() : promise)
    } catch (error) {
      return this.#hold(isWanted(error, wanted))
    }
    return this.#hold(false)
  }
}

/** A text is what the assertion says, and not what is wanted. */
function isWanted(error, wanted) {
  return wanted === undefined || typeof wanted === 'string' || match(error, wanted).match
}

/** The tests of a file run one after the other. */
let last = Promise.resolve()

export default {
  test(title, act) {
    last = last.then(() => new Test(title).run(act))
    return last
  },
  teardown() {},
}

/** Resolves once all tests have run. */
export async function ended() {
  for (let known; known !== last; ) {
    known = last
    await known
  }
}
globalThis.mutation.ended = ended
