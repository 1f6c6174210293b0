#!/usr/bin/env node
/** The process of `npm start` and of the image. */
import { Hangups } from './hangup.js'

const hangups = new Hangups()
// Loaded after that, since it takes a while.
const { start } = await import('./start.js')
await start(process.env, hangups)
