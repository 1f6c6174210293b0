#!/usr/bin/env node
/** The process of `npm start` and of the image. */
import { serve } from './serve.js'

await serve(process.env)
