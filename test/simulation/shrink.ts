/** Makes a plan that fails as small as it can, so that its history can be read. */
import type { Plan, Settings, Step } from './plan.js'

/** Runs at most, so that no shrinking takes long. */
const MOST_RUNS = 600

/** `fails`: whether a plan still fails in the same way. */
export async function shrunk(plan: Plan, fails: (plan: Plan) => Promise<boolean>): Promise<Plan> {
  let smallest = plan
  let runs = 0
  const accept = async (candidate: Plan): Promise<boolean> => {
    if (++runs > MOST_RUNS || !(await fails(candidate))) return false
    smallest = candidate
    return true
  }
  for (let before = -1; before !== size(smallest) && runs < MOST_RUNS; ) {
    before = size(smallest)
    await dropSteps(() => smallest, accept)
    for (let index = 0; index < smallest.steps.length; index++) {
      for (const step of smaller(smallest.steps[index] as Step)) await accept(withStep(smallest, index, step))
    }
    for (const settings of simpler(smallest.settings)) await accept({ ...smallest, settings })
  }
  return smallest
}

function size({ steps, settings }: Plan): number {
  return JSON.stringify(steps).length + JSON.stringify(settings).length
}

/** Halves first, then ever smaller pieces. */
async function dropSteps(present: () => Plan, accept: (plan: Plan) => Promise<boolean>): Promise<void> {
  for (let piece = Math.ceil(present().steps.length / 2); piece >= 1; piece = piece === 1 ? 0 : Math.ceil(piece / 2)) {
    for (let from = 0; from < present().steps.length; ) {
      const plan = present()
      const steps = [...plan.steps.slice(0, from), ...plan.steps.slice(from + piece)]
      if (!(await accept({ ...plan, steps }))) from += piece
    }
  }
}

function withStep(plan: Plan, index: number, step: Step): Plan {
  return { ...plan, steps: plan.steps.map((known, at) => (at === index ? step : known)) }
}

function smaller(step: Step): Step[] {
  const steps: Step[] = []
  if ('count' in step && step.count > 1) {
    steps.push({ ...step, count: 1 }, { ...step, count: Math.ceil(step.count / 2) }, { ...step, count: step.count - 1 })
  }
  if (step.act === 'ask' && step.gapUs > 0) steps.push({ ...step, gapUs: 0 })
  if (step.at % 1000 !== 0) steps.push({ ...step, at: Math.round(step.at / 1000) * 1000 })
  return steps
}

function simpler(settings: Settings): Settings[] {
  const { policies, rates } = settings
  return [
    ...(policies.length > 1 ? [{ ...settings, policies: policies.slice(0, 1) }] : []),
    ...(settings.prefetch ? [{ ...settings, prefetch: false }] : []),
    ...(settings.denyMemory > 0 ? [{ ...settings, denyMemory: 0 }] : []),
    ...(settings.inOrder ? [] : [{ ...settings, inOrder: true }]),
    ...(settings.wayUs > 200 ? [{ ...settings, wayUs: 200 }] : []),
    ...(rates.some(rate => rate !== 1) ? [{ ...settings, rates: rates.map(() => 1) }] : []),
  ]
}
