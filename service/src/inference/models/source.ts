/** What the repository asks of a source of models. There are two: what runs in workers here, and what runs elsewhere. */
import type { Scheduler } from '../queue/scheduler.js'
import type { BrokenModel, Log, Model, ReloadReport } from '../types.js'
import type { Scan } from './model-files.js'
import type { ServedModel } from './served-model.js'

export interface ModelSource {
  /** False while nothing can run the models of this source that serve. */
  readonly ready: boolean
  /** Models of the folder that do not serve as it says, and why, as of now. */
  readonly broken: readonly BrokenModel[]
  /** Reads, loads and tries what is new or has changed. What fails is reported, and the version that serves stays. */
  gather(scan: Scan): Promise<Gathered>
  /** Ends whatever runs the models. The scheduler must have stopped. */
  close(): Promise<void>
}

/** The models that a source would serve from now on: brought up and then served, or discarded. */
export interface Gathered {
  readonly entries: readonly Served[]
  readonly report: ReloadReport
  /** Loads the models wherever they will run. Rejects where that fails; `discard` is then due. */
  bringUp(): Promise<void>
  /** Puts the models in place of those that serve, in one turn of the event loop. */
  serve(): void
  /** Ends what was loaded in vain; does nothing to what serves. */
  discard(): Promise<void>
}

/** One version that serves. */
export interface Served {
  readonly model: ServedModel
  /** Fields of model.json that are not known. */
  readonly unknownKeys: readonly string[]
}

export interface SourceOptions {
  readonly scheduler: Scheduler
  readonly log: Log
  /** Rows of one run, for models whose model.json does not say; found by timing when left out. */
  readonly batchMaxRows: number | undefined
  readonly batchMaxDelayMs: number
  readonly runTimeoutMs: number
  /** A name for one loaded version, `name` followed by a number: never given twice. */
  readonly nextKey: (name: string) => string
  /**
   * The model that now serves those who hold a retired one: of the version that they asked for, or the newest. Throws
   * UnknownModel where there is none.
   */
  readonly successor: (name: string, asked: string | undefined) => Model
  /**
   * Puts in place what a source has made of its own accord, between two reloads; nothing where `gathered` gives undefined,
   * which is called when its turn has come. Resolves when that is done.
   */
  readonly putInPlace: (source: ModelSource, gathered: () => Gathered | undefined) => Promise<void>
}

/** `name/version`, as reports and keys have it. */
export const nameOf = ({ model: { info } }: Served): string => `${info.name}/${info.version}`
