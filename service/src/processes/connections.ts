/**
 * Connections on their way to a process. `node:cluster` accepts them in the first process, sends each to another one, and
 * keeps it open until that says whether it has taken it. If a process ends before that, `node:cluster` waits for ever, and
 * so does the client (https://github.com/nodejs/node-v0.x-archive/issues/7006). Here it is told that the process has not
 * taken them, as it can no longer say that itself. Nothing of such a connection was read: a process answers first.
 */
import type { ChildProcess } from 'node:child_process'

/** What `node:cluster` sends with a connection. */
interface NewConnection {
  readonly act: 'newconn'
  readonly seq: number
}

interface Handle {
  close(): void
}

const isNewConnection = (message: unknown): message is NewConnection =>
  typeof message === 'object' && message !== null && 'seq' in message && 'act' in message && message.act === 'newconn'

/** Follows what is sent to `child`. `hasAnother`: whether another process listens, when this one has ended. */
export function followConnections(child: ChildProcess, hasAnother: () => boolean): void {
  const underWay = new Map<number, Handle>()
  const send = child.send
  child.send = (...sent: unknown[]) => {
    const [message, handle] = sent
    if (isNewConnection(message)) underWay.set(message.seq, handle as Handle)
    return Reflect.apply(send, child, sent)
  }
  child.on('internalMessage', ({ ack }: { readonly ack?: number }) => {
    if (ack !== undefined) underWay.delete(ack)
  })
  let isTold = false
  child.once('disconnect', () => {
    isTold = true
  })
  // All that it has said was heard by then.
  child.once('close', () => {
    if (underWay.size === 0) return
    // While a connection is on its way, Node.js does not tell that the channel has closed, and `node:cluster` goes on to
    // hand connections to the process.
    if (!isTold) child.emit('disconnect')
    for (const [seq, handle] of [...underWay]) {
      if (hasAnother()) child.emit('internalMessage', { cmd: 'NODE_CLUSTER', ack: seq, accepted: false })
      else handle.close()
    }
  })
}
