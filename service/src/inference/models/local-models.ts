/** The models of the folder that run in workers here. */
import type { BrokenModel } from '../types.js'
import type { Host } from '../workers/host.js'
import type { Generation, Pool, PooledModel } from '../workers/pool.js'
import { reasonOf } from '../workers/self-check.js'
import { type FoundVersion, isUnchanged, type ModelFiles, readModel, type Scan } from './model-files.js'
import { loadModel } from './model-loader.js'
import { ServedModel } from './served-model.js'
import { type Gathered, type ModelSource, nameOf, type Served, type SourceOptions } from './source.js'

/** One version that serves, with what it was made from. */
interface Entry extends Served {
  readonly files: ModelFiles
  readonly pooled: PooledModel
}

/** What a load of the folder came to, before it is put in place. */
interface Candidates {
  readonly entries: Entry[]
  readonly report: { loaded: string[]; unchanged: string[]; removed: string[]; broken: BrokenModel[] }
  /** The first worker of the new generation; undefined when nothing changed. */
  first: Host | undefined
}

export class LocalModels implements ModelSource {
  broken: readonly BrokenModel[] = []
  readonly #pool: Pool
  readonly #options: SourceOptions
  #serving: readonly Entry[] = []

  constructor(pool: Pool, options: SourceOptions) {
    this.#pool = pool
    this.#options = options
  }

  get ready(): boolean {
    return this.#serving.length === 0 || this.#pool.ready
  }

  async gather(scan: Scan): Promise<Gathered> {
    const { entries, report, first } = await this.#read(scan.found)
    let generation: Generation | undefined
    let served = false
    return {
      entries,
      report,
      bringUp: async () => {
        if (first === undefined) return
        const pooled = entries.map(entry => entry.pooled)
        generation = await this.#pool.bringUp(pooled, first)
      },
      serve: () => {
        for (const { model } of entries) model.register()
        this.#serving = entries
        this.broken = report.broken
        served = true
        if (generation !== undefined) this.#pool.putInPlace(generation)
      },
      discard: async () => {
        if (served) return
        const hosts = generation?.hosts ?? [first]
        await Promise.all(hosts.map(host => host?.close()))
      },
    }
  }

  close(): Promise<void> {
    return this.#pool.close()
  }

  /** Reads and tries what changed; what fails leaves the version that serves as it is. */
  async #read(found: readonly FoundVersion[]): Promise<Candidates> {
    const report: Candidates['report'] = { loaded: [], unchanged: [], removed: [], broken: [] }
    const candidates: Candidates = { entries: [], report, first: undefined }
    const changed: ModelFiles[] = []
    for (const each of found) {
      const serving = this.#serving.find(({ files }) => sameVersion(each, files))
      const keep = (list?: string[]) => {
        if (serving === undefined) return
        candidates.entries.push(serving)
        list?.push(nameOf(serving))
      }
      try {
        const files =
          serving !== undefined && (await isUnchanged(each, serving.files)) ? serving.files : await readModel(each)
        if (files.hash === serving?.files.hash) keep(report.unchanged)
        else changed.push(files)
      } catch (error) {
        report.broken.push({ name: each.name, version: each.version, reason: reasonOf(error) })
        keep()
      }
    }
    const gone = this.#serving.filter(({ files }) => !found.some(each => sameVersion(each, files)))
    report.removed.push(...gone.map(nameOf))
    if (changed.length > 0 || gone.length > 0) await this.#try(changed, candidates)
    return candidates
  }

  /** Loads what changed into a fresh worker, checks it there, and adds what else that worker will have to serve. */
  async #try(changed: readonly ModelFiles[], candidates: Candidates): Promise<void> {
    const { entries, report } = candidates
    let host = await this.#pool.open()
    try {
      for (const files of changed) {
        const loaded = host.keys.size
        try {
          const entry = await this.#load(files, host)
          entries.push(entry)
          report.loaded.push(nameOf(entry))
        } catch (error) {
          report.broken.push({ name: files.name, version: files.version, reason: reasonOf(error) })
          const serving = this.#serving.find(each => sameVersion(each.files, files))
          if (serving !== undefined) entries.push(serving)
          // It has crashed its worker, along with the models loaded before it, or still lies in its memory.
          if (!host.lost && host.keys.size === loaded) continue
          await host.close()
          host = await this.#pool.open()
        }
      }
      if (entries.length === 0 || (this.#serving.length > 0 && report.loaded.length + report.removed.length === 0)) {
        // Nothing came of it: what serves goes on as it is.
        await host.close()
        return
      }
      for (const { pooled } of entries) {
        if (host.keys.has(pooled.key)) continue
        await host.load(pooled.key, pooled.bytes, pooled.session)
        await pooled.warm(host)
      }
      candidates.first = host
    } catch (error) {
      await host.close()
      throw error
    }
  }

  async #load(files: ModelFiles, host: Host): Promise<Entry> {
    const { name, version, unknownKeys } = files
    const { scheduler, log, batchMaxRows, batchMaxDelayMs, nextKey, successor } = this.#options
    const key = nextKey(`${name}/${version}`)
    const { info, layout, batcher, pooled } = await loadModel(files, host, {
      key,
      batchMaxRows,
      batchMaxDelayMs,
      poolSize: this.#pool.size,
    })
    const leftOut = files.onnx.outputs.filter(output => !info.outputs.some(each => each.name === output.name))
    if (leftOut.length > 0) {
      const outputs = leftOut.map(each => `${each.name} (${each.kind})`)
      log.warn({ model: name, version, outputs }, 'outputs of a model that are no tensors are left out')
    }
    const serving = { key, layout, batcher, scheduler, successor: (asked?: string) => successor(name, asked) }
    return { files, pooled, unknownKeys, model: new ServedModel(info, serving) }
  }
}

const sameVersion = (a: FoundVersion, b: FoundVersion): boolean => a.name === b.name && a.version === b.version
