/**
 * A thread of a worker that is a process: ends the process once its parent has gone, however that ended. The main thread
 * of the worker cannot see to it, since it may be inside a run that never ends.
 */
import { workerData } from 'node:worker_threads'

const intervalMs = 250

setInterval(() => {
  if (process.ppid !== workerData) process.kill(process.pid, 'SIGKILL')
}, intervalMs)
