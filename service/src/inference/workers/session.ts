/** One session of the runtime, made as model.json says. This and the worker alone import the runtime. */
import { env, InferenceSession, listSupportedBackends } from 'onnxruntime-node'
import { nameOfProvider, type Provider, type SessionOptions } from './session-options.js'
import type { SessionSource } from './worker-messages.js'

// Whatever goes wrong is told by an error. The runtime would also print it, in colours.
env.logLevel = 'fatal'

export interface MadeSession {
  readonly session: InferenceSession
  /** Providers that are not there, in words. */
  readonly warnings: readonly string[]
}

/** Rejects with the runtime's own message, or with one that names the provider that is not there. */
export async function createSession(source: SessionSource, options: SessionOptions): Promise<MadeSession> {
  const warnings: string[] = []
  const leaveOut = (provider: Provider, why: string): void => {
    const name = nameOfProvider(provider)
    if (options.onMissingProvider === 'refuse') throw new Error(`execution provider '${name}' cannot be used: ${why}`)
    warnings.push(`execution provider '${name}' cannot be used, the next one is taken: ${why}`)
    providers = providers.filter(each => each !== provider)
  }
  let providers: readonly Provider[] = options.executionProviders ?? ['cpu']
  const known = listSupportedBackends().map(({ name }) => name)
  // The runtime would leave these out without a word.
  for (const each of providers) {
    if (!known.includes(nameOfProvider(each))) leaveOut(each, 'this build of the runtime does not have it')
  }
  for (;;) {
    if (providers.length === 0) providers = ['cpu']
    try {
      return { session: await create(source, options, providers), warnings }
    } catch (error) {
      const suspect = providers.find(each => nameOfProvider(each) !== 'cpu')
      if (suspect === undefined) throw error
      leaveOut(suspect, (error as Error).message)
    }
  }
}

function create(
  source: SessionSource,
  options: SessionOptions,
  providers: readonly Provider[],
): Promise<InferenceSession> {
  const made: InferenceSession.SessionOptions = {
    executionProviders: providers as InferenceSession.ExecutionProviderConfig[],
    intraOpNumThreads: options.threads,
    interOpNumThreads: 1,
    executionMode: 'sequential',
    graphOptimizationLevel: options.graphOptimizationLevel ?? 'all',
    enableCpuMemArena: options.enableCpuMemArena ?? true,
    enableMemPattern: options.enableMemPattern ?? true,
    logSeverityLevel: 4,
    extra: {
      session: {
        // Waiting threads would burn the cores that serve HTTP.
        intra_op: { allow_spinning: '0' },
        ...(options.prepacking === false ? { disable_prepacking: '1' } : {}),
        ...('bytes' in source && source.folder !== undefined
          ? { model_external_initializers_file_folder_path: source.folder }
          : {}),
      },
    },
  }
  if ('path' in source) return InferenceSession.create(source.path, made)
  // The bytes may be shared with other workers, and shared memory is refused by the runtime.
  return InferenceSession.create(new Uint8Array(source.bytes), made)
}
