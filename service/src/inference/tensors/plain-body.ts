/**
 * The commonest body read straight from its bytes: `{"model":"digits","features":[0,1.5,…]}`, an object of a few known
 * members whose values are plain texts, numbers and lists of numbers. That such bytes are UTF-8, hold no `__proto__` and
 * nest no deeper than they may is seen on the way. Anything else is left to JSON.parse, also to say what is wrong with it.
 */

export interface PlainBody {
  model?: unknown
  version?: unknown
  features?: unknown
}

const TAB = 0x09
const LINE_FEED = 0x0a
const CARRIAGE_RETURN = 0x0d
const SPACE = 0x20
const QUOTE = 0x22
const COMMA = 0x2c
const MINUS = 0x2d
const POINT = 0x2e
const ZERO = 0x30
const NINE = 0x39
const COLON = 0x3a
const UPPER_E = 0x45
const OPEN_BRACKET = 0x5b
const BACKSLASH = 0x5c
const CLOSE_BRACKET = 0x5d
const LOWER_E = 0x65
const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d
const LAST_PRINTABLE = 0x7e

const MEMBERS = ['model', 'version', 'features'] as const

/** Lists inside each other: rows of four dimensions. Nothing that is read here calls itself more often. */
const MAX_DEPTH = 5
/** Longer ones are no names of models. */
const MAX_TEXT = 100

/**
 * Whole numbers of so many digits are exact, and so is each power of ten up to this one: their quotient is rounded once,
 * as it has to be. W. D. Clinger, How to Read Floating Point Numbers Accurately (PLDI 1990).
 */
const MOST_DIGITS = 15
const POWERS = Array.from({ length: MOST_DIGITS + 1 }, (_, exponent) => 10 ** exponent)

/** What is left to JSON.parse. */
const OTHER = Symbol('other')

const NOTHING = new Uint8Array()

export class PlainBodyReader {
  #bytes: Uint8Array = NOTHING
  #at = 0
  /** Most callers of a service ask for the same model. */
  #lastText = ''

  /** What JSON.parse gives for these bytes; undefined where it has to be asked. */
  read(bytes: Uint8Array): PlainBody | undefined {
    this.#bytes = bytes
    this.#at = 0
    const body = this.#body()
    this.#bytes = NOTHING
    return body
  }

  #body(): PlainBody | undefined {
    if (!this.#take(OPEN_BRACE)) return undefined
    const body: PlainBody = {}
    do {
      const member = this.#member()
      if (member === undefined || body[member] !== undefined || !this.#take(COLON)) return undefined
      const value = this.#value(0)
      if (value === OTHER) return undefined
      // Each by its own name, so that bodies with the same members are the same to the compiler.
      if (member === 'model') body.model = value
      else if (member === 'version') body.version = value
      else body.features = value
    } while (this.#take(COMMA))
    return this.#take(CLOSE_BRACE) && this.#next() === -1 ? body : undefined
  }

  /** The byte behind any white space, which is left where it is; -1 at the end. */
  #next(): number {
    const bytes = this.#bytes
    for (let at = this.#at; at < bytes.length; at++) {
      const byte = bytes[at] as number
      if (byte === SPACE || byte === LINE_FEED || byte === CARRIAGE_RETURN || byte === TAB) continue
      this.#at = at
      return byte
    }
    return -1
  }

  #take(byte: number): boolean {
    if (this.#next() !== byte) return false
    this.#at++
    return true
  }

  #member(): (typeof MEMBERS)[number] | undefined {
    if (this.#next() !== QUOTE) return undefined
    for (const member of MEMBERS) {
      if (!this.#isText(member)) continue
      this.#at += member.length + 2
      return member
    }
    return undefined
  }

  /** Whether these characters and a quote stand behind the quote here. */
  #isText(text: string): boolean {
    const bytes = this.#bytes
    const from = this.#at + 1
    if (bytes[from + text.length] !== QUOTE) return false
    for (let index = 0; index < text.length; index++) if (bytes[from + index] !== text.charCodeAt(index)) return false
    return true
  }

  #value(depth: number): unknown {
    const byte = this.#next()
    if (byte === OPEN_BRACKET) return depth === MAX_DEPTH ? OTHER : this.#list(depth + 1)
    if (byte === QUOTE) return depth === 0 ? this.#text() : OTHER
    return this.#number(byte)
  }

  #list(depth: number): unknown[] | typeof OTHER {
    const list: unknown[] = []
    this.#at++
    if (this.#take(CLOSE_BRACKET)) return list
    do {
      this.#takeDigits(list)
      const value = this.#value(depth)
      if (value === OTHER) return OTHER
      list.push(value)
    } while (this.#take(COMMA))
    return this.#take(CLOSE_BRACKET) ? list : OTHER
  }

  /**
   * Whole numbers with a comma directly behind each, and at most a blank before it, as Python writes them: most of what
   * most bodies are made of, and looked at only once.
   */
  #takeDigits(list: unknown[]): void {
    const bytes = this.#bytes
    let at = this.#at
    for (;;) {
      if (bytes[at] === SPACE) at++
      const from = at
      let whole = 0
      let byte = bytes[at] as number
      while (byte >= ZERO && byte <= NINE && at - from < 9) {
        whole = whole * 10 + byte - ZERO
        byte = bytes[++at] as number
      }
      if (byte !== COMMA || at === from || (bytes[from] === ZERO && at - from > 1)) return
      list.push(whole)
      this.#at = ++at
    }
  }

  /** Plain ASCII without escapes. */
  #text(): string | typeof OTHER {
    const last = this.#lastText
    if (this.#isText(last)) {
      this.#at += last.length + 2
      return last
    }
    const bytes = this.#bytes
    let text = ''
    for (let at = this.#at + 1; at < bytes.length && text.length < MAX_TEXT; at++) {
      const byte = bytes[at] as number
      if (byte === QUOTE) {
        this.#at = at + 1
        this.#lastText = text
        return text
      }
      if (byte < SPACE || byte === BACKSLASH || byte > LAST_PRINTABLE) return OTHER
      text += String.fromCharCode(byte)
    }
    return OTHER
  }

  #number(first: number): number | typeof OTHER {
    const bytes = this.#bytes
    let at = first === MINUS ? this.#at + 1 : this.#at
    const from = at
    let whole = 0
    let byte = bytes[at] as number
    while (byte >= ZERO && byte <= NINE) {
      whole = whole * 10 + byte - ZERO
      byte = bytes[++at] as number
    }
    let digits = at - from
    if (digits === 0 || (digits > 1 && bytes[from] === ZERO)) return OTHER
    let value = whole
    if (byte === POINT) {
      const point = at
      byte = bytes[++at] as number
      while (byte >= ZERO && byte <= NINE) {
        whole = whole * 10 + byte - ZERO
        byte = bytes[++at] as number
      }
      const decimals = at - point - 1
      if (decimals === 0) return OTHER
      digits += decimals
      value = whole / (POWERS[decimals] as number)
    }
    if (digits > MOST_DIGITS || byte === LOWER_E || byte === UPPER_E) return OTHER
    this.#at = at
    return first === MINUS ? -value : value
  }
}
