/** Outputs of a run into one prediction a row, as the JSON of an answer. Pure. */
import { elementCount, isFloat, isInteger } from './datatype.js'
import { fromFloat16Bits } from './float16.js'
import { rowLayout } from './signature.js'
import { elementJson, elementsJson, nestedJson } from './tensor.js'
import type { ModelInfo, NamedTensors, Tensor } from './types.js'

/** Which outputs tell the class, worked out once a model. */
interface ClassPlan {
  readonly labels: readonly string[]
  /** The output with one value a class. */
  readonly scores: string | undefined
  /** The output that names the class: a string, or an integer that is a label or an index. */
  readonly label: string | undefined
}

type Classified = Pick<ModelInfo, 'inputs' | 'outputs' | 'labels'>

const plans = new WeakMap<Classified, ClassPlan | null>()

function classPlan(info: Classified): ClassPlan | null {
  let plan = plans.get(info)
  if (plan === undefined) {
    plan = planOf(info)
    plans.set(info, plan)
  }
  return plan
}

/** Whether some output tells which of the labels a row has. */
export const tellsLabels = (info: Classified): boolean => planOf(info) !== null

function planOf({ labels, outputs }: Classified): ClassPlan | null {
  const scores = outputs.find(({ datatype, shape }) => isFloat(datatype) && shape.at(-1) === labels?.length)
  // Exports that leave the last dimension open are told by their only float output.
  const open = outputs.filter(({ datatype, shape }) => isFloat(datatype) && typeof shape.at(-1) === 'string')
  const named = outputs.filter(
    ({ datatype, shape }) => (datatype === 'BYTES' || isInteger(datatype)) && (shape.length <= 1 || shape.at(-1) === 1),
  )
  const label = named.find(({ name }) => /label|class|pred/i.test(name)) ?? (named.length === 1 ? named[0] : undefined)
  if (labels === undefined) {
    // Strings are labels by themselves.
    return label?.datatype === 'BYTES' ? { labels: [], scores: undefined, label: label.name } : null
  }
  const chosen = scores ?? (open.length === 1 ? open[0] : undefined)
  if (chosen === undefined && label === undefined) return null
  return { labels, scores: chosen?.name, label: label?.name }
}

/**
 * One prediction a row, in order, as a JSON list of `{ label?, score?, outputs }`. `outputs` of a row is the value without
 * its batch dimension; an output that has no batch dimension is given whole to every row. Where labels are known, `label`
 * is what the model's own label output says, or else the class with the highest value, and `score` that class's value:
 * a probability where the model ends in one.
 *
 * Text, because to write numbers is most of what an answer costs, and float32 has fewer digits than a double.
 */
export function predictionsJson(info: Classified, outputs: NamedTensors, rows: number): string {
  const plan = classPlan(info)
  const whole = rowLayout(info) === 'whole'
  let text = '['
  for (let row = 0; row < rows; row++) {
    if (row > 0) text += ','
    text += plan === null ? '{' : `{${classJson(plan, outputs, row, rows)}`
    text += '"outputs":{'
    let separator = ''
    for (const name in outputs) {
      text += `${separator}${JSON.stringify(name)}:${rowJson(outputs[name] as Tensor, row, rows, whole)}`
      separator = ','
    }
    text += '}}'
  }
  return `${text}]`
}

function rowJson(tensor: Tensor, row: number, rows: number, whole: boolean): string {
  const { shape } = tensor
  if (whole || shape.length === 0 || shape[0] !== rows) return nestedJson(tensor)
  if (shape.length === 2) {
    const size = shape[1] as number
    return `[${elementsJson(tensor, row * size, row * size + size)}]`
  }
  const inner = shape.slice(1)
  return nestedJson(tensor, inner, row * elementCount(inner))
}

/** The members `label` and `score`, each with a comma behind it, as far as they can be told. */
function classJson(plan: ClassPlan, outputs: NamedTensors, row: number, rows: number): string {
  const { labels } = plan
  const scores = plan.scores === undefined ? undefined : rowScores(outputs[plan.scores], row, rows, labels.length)
  const said = plan.label === undefined ? undefined : saidLabel(outputs[plan.label], row, rows, labels)
  const best = scores === undefined ? -1 : highest(scores)
  const label = said ?? labels[best]
  if (label === undefined) return ''
  const index = said === undefined ? best : labels.indexOf(said)
  const text = `"label":${JSON.stringify(label)},`
  return scores === undefined || index < 0 ? text : `${text}"score":${scores.json(index)},`
}

interface Scores {
  readonly length: number
  value(index: number): number
  json(index: number): string
}

function rowScores(tensor: Tensor | undefined, row: number, rows: number, length: number): Scores | undefined {
  if (tensor === undefined || tensor.data.length !== rows * length) return undefined
  const from = row * length
  const { datatype, data } = tensor
  const json = (index: number) => elementJson(datatype, data, from + index)
  // Halves are kept as bits, whose order is not that of their values.
  const value =
    datatype === 'FP16'
      ? (i: number) => fromFloat16Bits(data[from + i] as number)
      : (i: number) => data[from + i] as number
  return { length, value, json }
}

/** The index of the highest value, the first of equals; -1 where all are NaN. */
function highest(scores: Scores): number {
  let best = -1
  let value = Number.NEGATIVE_INFINITY
  for (let i = 0; i < scores.length; i++) {
    const each = scores.value(i)
    if (each > value || (best === -1 && each === value)) {
      best = i
      value = each
    }
  }
  return best
}

function saidLabel(
  tensor: Tensor | undefined,
  row: number,
  rows: number,
  labels: readonly string[],
): string | undefined {
  if (tensor === undefined || tensor.data.length !== rows) return undefined
  const value = tensor.data[row]
  if (typeof value === 'string') return value
  // scikit-learn's integer classes are the labels themselves; others write the index of the class.
  const text = String(value)
  return labels.includes(text) ? text : labels[Number(value)]
}
