// Compiles the test files that it is given, with the sources as they are now.
import { bundle } from './quick-tests.mjs'

await bundle(process.argv.slice(2))
