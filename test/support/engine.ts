/** The container engine of this machine, by its command line: Docker, or Podman with the same words. */
import { spawn, spawnSync } from 'node:child_process'

export interface Ran {
  readonly status: number | null
  readonly output: string
}

const answers = (command: string, args: readonly string[]): boolean =>
  spawnSync(command, args, { stdio: 'ignore', timeout: 30_000 }).status === 0

/** Command of the engine that answers; undefined where none does. */
export const ENGINE = ['docker', 'podman'].find(command => answers(command, ['info']))

/** False where an engine answers, else why what needs one is skipped. */
export const NO_ENGINE =
  ENGINE === undefined ? 'no container engine answers (docker info, podman info): start one' : false

/** False where the engine can compose, else why what needs that is skipped. */
export const NO_COMPOSE =
  NO_ENGINE ||
  (answers(ENGINE as string, ['compose', 'version']) ? false : `${ENGINE} has no compose (${ENGINE} compose version)`)

/** Runs the engine and resolves with what it printed on both streams. */
export function engine(args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Ran> {
  return new Promise(resolve => {
    const child = spawn(ENGINE as string, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', data => (output += data))
    child.on('close', status => resolve({ status, output }))
  })
}

/** As `engine`, with an error where it fails. Resolves with what it printed, without white space around. */
export async function must(args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<string> {
  const { status, output } = await engine(args, env)
  if (status !== 0) throw new Error(`${ENGINE} ${args.join(' ')} ended with ${status}:\n${output.slice(-4000)}`)
  return output.trim()
}

/** One field of what the engine knows of a container or an image. */
export const inspect = (id: string, format: string): Promise<string> => must(['inspect', '--format', format, id])

/** The processes of a container ask this of the service in it; resolves with the body of the answer. */
export const askInside = (id: string, path: string): Promise<string> =>
  must(['exec', id, 'node', '-e', `fetch('http://127.0.0.1:3000${path}').then(r => r.text()).then(console.log)`])
