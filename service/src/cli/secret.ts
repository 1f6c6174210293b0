import { read } from 'read'
import { Failure, type Io, readAll } from './io.js'

/** A secret, from a pipe (without the line end) or typed at a prompt that does not show it. */
export async function readSecret({ stdin, stderr }: Io, prompt: string): Promise<string> {
  if (stdin.isTTY !== true) return (await readAll(stdin)).replace(/\r?\n$/, '')
  try {
    return await read({ prompt, silent: true, terminal: true, input: stdin, output: stderr })
  } catch {
    throw new Failure('no key was typed')
  } finally {
    stderr.write('\n')
  }
}
