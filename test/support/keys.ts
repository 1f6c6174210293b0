/** API keys of a test: where they are kept, and the admin API that makes them. */
import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { InjectOptions, LightMyRequestResponse } from 'fastify'
import type { Test } from 'tap'

export const TOKEN = 'a-token-for-admins-of-tests'
export const AS_ADMIN = { authorization: `Bearer ${TOKEN}` }

/** A file for keys, in a folder that goes with the test. */
export function keysFile(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'keys-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return join(folder, 'keys.jsonl')
}

/** Both places where keys are kept, as settings. */
export const KEY_STORES: readonly { readonly name: string; readonly settings: (t: Test) => Record<string, string> }[] =
  [
    { name: 'in a file', settings: t => ({ KEYS_STORE: keysFile(t), ADMIN_TOKEN: TOKEN }) },
    {
      name: 'in Redis',
      settings: () => ({
        KEYS_STORE: process.env.REDIS_URL as string,
        REDIS_NAMESPACE: `test:${randomUUID()}:`,
        ADMIN_TOKEN: TOKEN,
      }),
    },
  ]

export interface ApiKeyView {
  readonly id: string
  readonly key: string
  readonly owner: string
  readonly plan: string
  readonly standing: string
  readonly [more: string]: unknown
}

type Ask = (request: InjectOptions) => Promise<LightMyRequestResponse>

/** The admin API of a service in this process. */
export function adminOf(ask: Ask) {
  const admin = (method: string, path: string, payload?: object, headers: Record<string, string> = AS_ADMIN) =>
    ask({ method: method as 'GET', url: `/v1/admin/${path}`, headers, ...(payload === undefined ? {} : { payload }) })
  const create = async (fields: object): Promise<ApiKeyView> => {
    const answer = await admin('POST', 'keys', fields)
    if (answer.statusCode !== 201) throw new Error(`no key was made: ${answer.statusCode} ${answer.body}`)
    return answer.json()
  }
  return { admin, create }
}
