import { fork } from 'node:child_process'

/**
 * A module in a process of its own that answers one message after the other.
 *
 * @param {URL} module
 * @param {string[]} args
 * @param {string[]} [execArgv] options of Node itself, for example for a profile
 */
export async function startChild(module, args, execArgv = []) {
  const child = fork(module, args, { execArgv, stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  const next = () =>
    new Promise((resolve, reject) => {
      const ended = code => reject(new Error(`${module.pathname} ${args.join(' ')} ended early (${code})`))
      child.once('exit', ended)
      child.once('message', message => {
        child.off('exit', ended)
        if (message?.error === undefined) resolve(message)
        else reject(new Error(message.error))
      })
    })
  const ready = await next()
  return {
    ready,
    pid: child.pid,
    /** @param {object} message */
    ask(message) {
      const answer = next()
      child.send(message)
      return answer
    },
    stop() {
      const ended = new Promise(resolve => child.once('exit', resolve))
      if (child.connected) child.disconnect()
      return ended
    },
    /** Ends it at once, whatever it is busy with. */
    kill() {
      const ended = new Promise(resolve => child.once('exit', resolve))
      child.kill('SIGKILL')
      return ended
    },
  }
}

/**
 * The other side: says that it is ready, answers each message, and ends when its parent does.
 *
 * @param {object} ready
 * @param {(message: any) => unknown} answer
 */
export function answerParent(ready, answer) {
  process.on('message', async message => {
    try {
      process.send?.(await answer(message))
    } catch (error) {
      process.send?.({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) })
    }
  })
  process.on('disconnect', () => process.exit(0))
  process.send?.(ready)
}
