/** What the repository asks of a source of models. There are two: what runs in workers here, and what runs elsewhere. */
import type { Scheduler } from '../queue/scheduler.js'
import type { BrokenModel, Log, Model, ReloadReport } from '../types.js'
import type { Routing } from './model-json.js'
import type { Scan } from './model-scan.js'
import type { ServedModel } from './served-model.js'

export interface ModelSource {
  /** False while nothing can run the models of this source that serve. */
  readonly ready: boolean
  /** What serves. Replaced as a whole. */
  readonly serving: readonly Served[]
  /** Models of the folder that do not serve as it says, and why, as of now. */
  readonly broken: readonly BrokenModel[]
  /** What else is not as it should be, in words that a stranger may know. */
  readonly faults: readonly string[]
  /**
   * Reads, loads and tries what is new or has changed; each version serves as soon as it is loaded. What fails is
   * reported, and the version that serves stays. What is gone stays too.
   */
  update(scan: Scan, progress: Progress): Promise<Omit<ReloadReport, 'removed'>>
  /** What serves though the folder no longer has it. */
  gone(scan: Scan): readonly Served[]
  /** Has these serve no longer. Requests that were taken are answered. */
  remove(gone: readonly Served[]): void
  /** Ends whatever runs the models. The scheduler must have stopped. */
  close(): Promise<void>
}

/** Told of each model of a scan, by its name. */
export interface Progress {
  /** Loaded, unchanged or refused. */
  done(name: string): void
}

/** One version that serves. */
export interface Served {
  readonly model: ServedModel
  /** Fields of model.json that are not known. */
  readonly unknownKeys: readonly string[]
  /** Which version answers, as model.json has it. */
  readonly routing: Routing
}

export interface SourceOptions {
  readonly scheduler: Scheduler
  readonly log: Log
  /** Rows of one run, for models whose model.json does not say; found by timing when left out. */
  readonly batchMaxRows: number | undefined
  readonly batchMaxDelayMs: number
  readonly runTimeoutMs: number
  readonly trialTimeoutMs: number
  /** Longest request body, in bytes. */
  readonly bodyLimit: number
  /** A name for one loaded version, `name` followed by a number: never given twice. */
  readonly nextKey: (name: string) => string
  /**
   * The model that now serves those who hold a retired one: of the version that they asked for, or that of the caller.
   * Throws UnknownModel where there is none.
   */
  readonly successor: (name: string, asked?: string, caller?: string) => Model
  /** What serves has changed: `loaded` is new, `broken` is refused. */
  readonly changed: (loaded: readonly Served[], broken?: readonly BrokenModel[]) => void
}

/** `name/version`, as reports and keys have it. */
export const nameOf = ({ model: { info } }: Served): string => `${info.name}/${info.version}`
