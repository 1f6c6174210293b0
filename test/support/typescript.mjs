/**
 * Lets a process of tests import TypeScript: see typescript-hooks.mjs. `.taprc` has NODE_OPTIONS import this before anything
 * else, so that tap's own hooks, which measure coverage, see what is run.
 */
import module from 'node:module'
import * as hooks from './typescript-hooks.mjs'

// tap's plugin would load the compiler of TypeScript, twice.
process.env.TAP_TYPE_STRIP_ONLY = '1'
// This process has read them; those that it starts run what was built.
delete process.env.NODE_OPTIONS

// As tap's own hooks decide it: hooks of the one kind run before all of the other.
const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
if (module.registerHooks && (major > 25 || (major === 25 && minor >= 1) || (major === 24 && minor >= 13)))
  module.registerHooks(hooks)
else module.register('./typescript-hooks.mjs', import.meta.url)
