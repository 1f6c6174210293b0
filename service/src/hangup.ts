/** SIGHUP asks for a reload. Without a listener it ends the process, so this is the first thing that the process sets up. */
export class Hangups {
  #reload: (() => void) | undefined
  #missed = false

  constructor() {
    process.on('SIGHUP', () => {
      if (this.#reload === undefined) this.#missed = true
      else this.#reload()
    })
  }

  /** From now on each one calls `reload`; it is called at once where one came before. */
  serve(reload: () => void): void {
    this.#reload = reload
    if (this.#missed) reload()
  }
}
