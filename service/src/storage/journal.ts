/**
 * A file of entries that survives `kill -9` and a power cut: an entry is there whole, or it is not there.
 *
 * Each line is `<CRC-32> <number> <JSON>`, appended under a lock and synced to the disk before `append` resolves. A line
 * that a killed writer left unfinished has a wrong checksum and is skipped; it was never acknowledged. Lines are numbered
 * without a gap, so a line that was acknowledged and is damaged later is noticed. The file is rewritten beside itself and
 * renamed over itself, so that there is always one whole file.
 *
 * Several processes of one machine may use a file: a lock file orders their writes, and each reads what the others wrote.
 */
import { randomUUID } from 'node:crypto'
import { type FileHandle, mkdir, open, readFile, rename, stat, unlink } from 'node:fs/promises'
import { dirname } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { crc32 } from 'node:zlib'

/** How long a writer waits for another one, in milliseconds. */
const LOCK_PATIENCE_MS = 5000
const LOCK_RETRY_MS = 10
/** A lock file without content is one whose maker was killed in between, once it is older than this. */
const EMPTY_LOCK_MS = 2000

/** Tells this process from an earlier one that had the same number, as in a container. */
const LIFE = randomUUID()

/** The file cannot be used. The message says why. */
export class JournalError extends Error {
  override readonly name = 'JournalError'
}

export interface JournalReader {
  /** Called for each entry, in order. */
  apply(entry: unknown): void
  /** The file is read from its beginning again: what earlier calls of `apply` said is void. */
  reset(): void
}

export class Journal {
  readonly path: string
  readonly #reader: JournalReader
  /** Of the file that was read last: which one it is, how far it was read, and the number of its last line. */
  #inode: number | undefined
  #offset = 0
  #last = 0
  #lastSum = ''
  /** Operations run one after the other. */
  #queue: Promise<unknown> = Promise.resolve()

  constructor(path: string, reader: JournalReader) {
    this.path = path
    this.#reader = reader
  }

  /** Bytes that have been read. */
  get size(): number {
    return this.#offset
  }

  /** Number of entries that have been read. */
  get entries(): number {
    return this.#last
  }

  /** Reads what was written since. A missing file is an empty one. Rejects with JournalError for a damaged file. */
  read(): Promise<void> {
    return this.#inTurn(() => this.#read())
  }

  /**
   * Reads what was written since, then appends what `entries` gives. Resolves once that is on the disk, and has been
   * passed to the reader. Whatever `entries` throws rejects, and nothing is written.
   */
  append(entries: () => readonly unknown[]): Promise<void> {
    return this.#inTurn(() =>
      this.#locked(async () => {
        await this.#read()
        await this.#endLastLine()
        const made = entries()
        if (made.length > 0) await this.#append(made)
      }),
    )
  }

  /** Replaces the file by these entries, in one step. */
  rewrite(entries: () => readonly unknown[]): Promise<void> {
    return this.#inTurn(() =>
      this.#locked(async () => {
        await this.#read()
        const temporary = `${this.path}.${randomUUID()}.tmp`
        try {
          const file = await open(temporary, 'wx', 0o600)
          await writeSynced(
            file,
            entries()
              .map((entry, index) => lineOf(index + 1, entry))
              .join(''),
          )
          await rename(temporary, this.path)
        } catch (error) {
          await unlink(temporary).catch(() => {})
          throw error
        }
        await syncFolder(this.path)
        await this.#read()
      }),
    )
  }

  async #read(): Promise<void> {
    let file: FileHandle
    try {
      file = await open(this.path, 'r')
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
      if (this.#inode !== undefined) this.#forget(undefined)
      return
    }
    try {
      const { ino, size } = await file.stat()
      if (ino !== this.#inode || size < this.#offset) this.#forget(ino)
      if (size === this.#offset) return
      const bytes = Buffer.alloc(size - this.#offset)
      const { bytesRead } = await file.read(bytes, 0, bytes.length, this.#offset)
      this.#take(bytes.subarray(0, bytesRead))
    } finally {
      await file.close()
    }
  }

  #forget(inode: number | undefined): void {
    this.#inode = inode
    this.#offset = 0
    this.#last = 0
    this.#reader.reset()
  }

  /** Takes the whole lines of what follows. The rest is read again when its line has ended. */
  #take(bytes: Buffer): void {
    let from = 0
    for (let end = bytes.indexOf(LINE_END); end !== -1; end = bytes.indexOf(LINE_END, from)) {
      const line = parseLine(bytes.subarray(from, end))
      from = end + 1
      // What has a number that is there already was written by a process that did not see the lock.
      if (line === undefined || line.number <= this.#last) continue
      if (line.number > this.#last + 1) {
        const expected = this.#last + 1
        // The next read begins anew, and meets the damage again.
        this.#inode = undefined
        throw new JournalError(`${this.path} is damaged: line ${line.number} follows where line ${expected} is due`)
      }
      this.#last = line.number
      this.#lastSum = line.sum
      this.#reader.apply(line.entry)
    }
    this.#offset += from
  }

  /** What a killed writer left gets a line of its own. It is skipped, unless nothing but its end was missing. */
  async #endLastLine(): Promise<void> {
    if (this.#inode === undefined) return
    const { size } = await stat(this.path)
    if (size === this.#offset) return
    await writeSynced(await open(this.path, 'a'), '\n')
    await this.#read()
  }

  async #append(entries: readonly unknown[]): Promise<void> {
    const isNew = this.#inode === undefined
    const file = await open(this.path, 'a', 0o600)
    const lines = entries.map((entry, index) => lineOf(this.#last + 1 + index, entry))
    await writeSynced(file, lines.join(''))
    if (isNew) await syncFolder(this.path)
    await this.#read()
    if (lines.at(-1)?.startsWith(this.#lastSum) !== true) {
      throw new JournalError(`${this.path} is written by a process that does not see its lock`)
    }
  }

  async #locked<T>(work: () => Promise<T>): Promise<T> {
    await mkdir(dirname(this.path), { recursive: true, mode: 0o700 })
    const lock = `${this.path}.lock`
    const until = performance.now() + LOCK_PATIENCE_MS
    while (!(await tryLock(lock))) {
      if (performance.now() > until) throw new JournalError(`${this.path} is in use: another process holds ${lock}`)
      await delay(LOCK_RETRY_MS)
    }
    try {
      return await work()
    } finally {
      await unlink(lock)
    }
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#queue.then(work)
    this.#queue = done.catch(() => {})
    return done
  }
}

const LINE_END = 10

function lineOf(number: number, entry: unknown): string {
  const text = `${number} ${JSON.stringify(entry)}`
  return `${checksum(text)} ${text}\n`
}

/** Undefined for what is no whole line. */
function parseLine(bytes: Buffer): { sum: string; number: number; entry: unknown } | undefined {
  const [, sum, text = '', number, json = ''] = /^([0-9a-f]{8}) ((\d+) (.*))$/s.exec(bytes.toString('utf8')) ?? []
  return sum === checksum(text) ? { sum, number: Number(number), entry: JSON.parse(json) } : undefined
}

const checksum = (text: string): string => crc32(text).toString(16).padStart(8, '0')

async function writeSynced(file: FileHandle, text: string): Promise<void> {
  try {
    await file.writeFile(text)
    await file.sync()
  } finally {
    await file.close()
  }
}

/** A new name is on the disk once its folder is. */
async function syncFolder(path: string): Promise<void> {
  const folder = await open(dirname(path), 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

async function tryLock(lock: string): Promise<boolean> {
  try {
    const file = await open(lock, 'wx', 0o600)
    await file.writeFile(`${process.pid} ${LIFE}`)
    await file.close()
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    await clearIfStale(lock)
    return false
  }
}

/** Removes a lock whose holder was killed. */
async function clearIfStale(lock: string): Promise<void> {
  try {
    const content = await readFile(lock, 'utf8')
    if (!(await isStale(lock, content))) return
    // Moved first: another process may have removed the stale lock meanwhile, and made its own.
    const moved = `${lock}.${randomUUID()}`
    await rename(lock, moved)
    if ((await readFile(moved, 'utf8')) === content) await unlink(moved)
    else await rename(moved, lock)
  } catch (error) {
    // Its holder has released it.
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}

async function isStale(lock: string, content: string): Promise<boolean> {
  const [pid = '', life] = content.split(' ')
  if (life === undefined || life === '') return Date.now() - (await stat(lock)).mtimeMs > EMPTY_LOCK_MS
  if (Number(pid) === process.pid) return life !== LIFE
  try {
    process.kill(Number(pid), 0)
    return false
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH'
  }
}
