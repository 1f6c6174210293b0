/** The parts of the plugin that are simulated, imported while time is in the hands of the simulation. */
import './virtual.js'

export { LiveDecision } from '../../plugin/src/live-decision.js'
export { Registration } from '../../plugin/src/registration.js'
export * as scripts from '../../plugin/src/stores/redis/scripts.js'

import { imported } from './virtual.js'

imported()
