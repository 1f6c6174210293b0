/** Outputs of a run into one prediction a row, as the JSON of an answer. */

import { InvalidInput } from '../errors.js'
import type { Answers, ModelInfo, NamedTensors, Tensor } from '../types.js'
import { elementCount, isFloat, isInteger } from './datatype.js'
import { fromFloat16Bits } from './float16.js'
import { JsonBytes } from './json-bytes.js'
import { rowLayout } from './signature.js'
import { hasRows } from './stack.js'
import { writeElement, writeElements, writeNested } from './tensor.js'

/** Which outputs tell the class, worked out once a model. */
interface ClassPlan {
  readonly labels: readonly string[]
  /** The member `label` of each, as JSON. */
  readonly labelMembers: readonly string[]
  /** The output with one value a class. */
  readonly scores: string | undefined
  /** The output that names the class: a string, or an integer that is a label or an index. */
  readonly label: string | undefined
}

type Classified = Pick<ModelInfo, 'inputs' | 'outputs' | 'labels' | 'labelOutput' | 'scoreOutput'>
/** What an answer says of its model. */
export type Answered = Classified & Pick<ModelInfo, 'name' | 'version'>

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

function planOf({ labels, outputs, labelOutput, scoreOutput }: Classified): ClassPlan | null {
  const scores = scoreOutput ?? scoresAmong(outputs, labels)
  const label = labelOutput ?? labelAmong(outputs, scores !== undefined)
  if (labels === undefined) {
    // Strings are labels by themselves.
    const isText = outputs.some(({ name, datatype }) => name === label && datatype === 'BYTES')
    return isText || labelOutput !== undefined ? { labels: [], labelMembers: [], scores: undefined, label } : null
  }
  if (scores === undefined && label === undefined) return null
  return { labels, labelMembers: labels.map(labelMember), scores, label }
}

function scoresAmong(outputs: Classified['outputs'], labels: Classified['labels']): string | undefined {
  if (labels === undefined) return undefined
  const fitting = outputs.find(({ datatype, shape }) => isFloat(datatype) && shape.at(-1) === labels.length)
  if (fitting !== undefined) return fitting.name
  // Exports that leave the last dimension open are told by their only float output.
  const open = outputs.filter(({ datatype, shape }) => isFloat(datatype) && typeof shape.at(-1) === 'string')
  return open.length === 1 ? open[0]?.name : undefined
}

/**
 * The output that names the class: strings, or integers under a name that says so. Integers alone may be a cluster, a
 * count or an index into something else; they are the class only where nothing else can be.
 */
function labelAmong(outputs: Classified['outputs'], hasScores: boolean): string | undefined {
  const one = outputs.filter(
    ({ datatype, shape }) => (datatype === 'BYTES' || isInteger(datatype)) && (shape.length <= 1 || shape.at(-1) === 1),
  )
  const byName = one.find(({ name }) => /(?:^|_)(?:label|class|prediction|pred)s?$|^predicted/i.test(name))
  if (byName !== undefined) return byName.name
  const [only] = one
  if (only === undefined || one.length > 1) return undefined
  return only.datatype === 'BYTES' || (!hasScores && outputs.length === 1) ? only.name : undefined
}

const labelMember = (label: string): string => `"label":${JSON.stringify(label)},`

/** What answers of a model begin with, and its names as they stand before their values; made once. */
interface Phrases {
  readonly head: string
  readonly members: Map<string, string>
}

const phrases = new WeakMap<object, Phrases>()

function phrasesOf(info: Answered): Phrases {
  let known = phrases.get(info)
  if (known === undefined) {
    const { name, version } = info
    const head = `{"model":${JSON.stringify(name)},"version":${JSON.stringify(version)},"predictions":`
    known = { head, members: new Map() }
    phrases.set(info, known)
  }
  return known
}

function memberOf({ members }: Phrases, name: string): string {
  let member = members.get(name)
  if (member === undefined) {
    member = `${JSON.stringify(name)}:`
    members.set(name, member)
  }
  return member
}

/** There is one answer at a time. */
const out = new JsonBytes()

/**
 * The body of an answer, `{ model, version, predictions }`, as JSON in UTF-8. One prediction a row, in order:
 * `{ label?, score?, outputs }`. `outputs` of a row is the value without its batch dimension; an output that has no batch
 * dimension is given whole to every row. Where labels are known, `label` is what the model's own label output says, or
 * else the class with the highest value, and `score` that class's value: a probability where the model ends in one.
 * Throws InvalidInput where values that belong to all rows would have to be repeated for too many.
 */
export function predictionsJson(info: Answered, outputs: NamedTensors, rows: number): Buffer {
  assertNotRepeated(info, outputs, rows)
  out.clear()
  writeAnswer(info, outputs, 0, rows, rows)
  return out.take()
}

/**
 * The answers to requests that shared a run, one behind the other: `rows` are those of each, in order, and all rows of
 * the run. Undefined where the outputs do not have one entry a row, or an answer would repeat too much.
 */
export function answersJson(info: Answered, outputs: NamedTensors, rows: readonly number[]): Answers | undefined {
  let all = 0
  for (const count of rows) all += count
  if (rows.length > 1 ? !hasRows(outputs, all) : repeatedValues(info, outputs, all) > mostRepeated) return undefined
  const ends = new Uint32Array(rows.length)
  let from = 0
  out.clear()
  for (const [index, count] of rows.entries()) {
    writeAnswer(info, outputs, from, from + count, all)
    ends[index] = out.length
    from += count
  }
  return { bytes: out.takeAlone(), ends }
}

/**
 * Values of an answer that are there because outputs without a batch dimension are given to every row. Such an output may
 * be as large as the input: the answer to n rows would have n² values.
 */
const mostRepeated = 1 << 20

function assertNotRepeated(info: Answered, outputs: NamedTensors, rows: number): void {
  const repeated = repeatedValues(info, outputs, rows)
  if (repeated <= mostRepeated) return
  const message = `has ${rows} rows, and the model gives ${repeated / rows} values for all of them together, not for each: send fewer rows, or send them to /v2, which gives the values once`
  throw new InvalidInput([{ path: '', message: `the request ${message}` }])
}

function repeatedValues(info: Answered, outputs: NamedTensors, rows: number): number {
  if (rows <= 1 || rowLayout(info) === 'whole') return 0
  let values = 0
  for (const name in outputs) {
    const { shape, data } = outputs[name] as Tensor
    if (shape.length === 0 || shape[0] !== rows) values += data.length
  }
  return values * rows
}

/** The answer to rows `from` to `to` (exclusive) of a run of `rows`. */
function writeAnswer(info: Answered, outputs: NamedTensors, from: number, to: number, rows: number): void {
  const plan = classPlan(info)
  const known = phrasesOf(info)
  const whole = rowLayout(info) === 'whole'
  out.json(known.head).json('[')
  for (let row = from; row < to; row++) {
    out.json(row === from ? '{' : ',{')
    writePrediction(plan, known, outputs, row, rows, whole)
  }
  out.json(']}')
}

/** One prediction behind its opening brace. */
function writePrediction(
  plan: ClassPlan | null,
  known: Phrases,
  outputs: NamedTensors,
  row: number,
  rows: number,
  whole: boolean,
): void {
  if (plan !== null) writeClass(plan, outputs, row, rows)
  out.json('"outputs":{')
  let first = true
  for (const name in outputs) {
    if (!first) out.json(',')
    first = false
    out.json(memberOf(known, name))
    writeRow(outputs[name] as Tensor, row, rows, whole)
  }
  out.json('}}')
}

/** The predictions of a run alone, each as a line of JSON. Throws InvalidInput as `predictionsJson` does. */
export function predictionLines(info: Answered, outputs: NamedTensors, rows: number): Buffer {
  assertNotRepeated(info, outputs, rows)
  const plan = classPlan(info)
  const known = phrasesOf(info)
  const whole = rowLayout(info) === 'whole'
  out.clear()
  for (let row = 0; row < rows; row++) {
    out.json('{')
    writePrediction(plan, known, outputs, row, rows, whole)
    out.json('\n')
  }
  return out.take()
}

/** The label of each row of a run; undefined where a row has none. */
export function labelsOf(info: Answered, outputs: NamedTensors, rows: number): readonly (string | undefined)[] {
  const plan = classPlan(info)
  return Array.from(
    { length: plan === null ? 0 : rows },
    (_, row) => classOf(plan as ClassPlan, outputs, row, rows).label,
  )
}

/** What the columns of CSV are called: `label` and `score` where labels are known, then each value of each output. */
export function csvHeader(info: Answered, outputs: NamedTensors, rows: number): string {
  const names = classPlan(info) === null ? [] : ['label', 'score']
  for (const name in outputs) {
    const width = valuesOfRow(outputs[name] as Tensor, rows)
    const single = (outputs[name] as Tensor).shape.length <= 1
    for (let i = 0; i < width; i++) names.push(single ? name : `${name}[${i}]`)
  }
  return `${names.map(csvText).join(',')}\n`
}

/** The predictions of a run as lines of CSV. Values of outputs without a batch dimension are repeated. */
export function predictionsCsv(info: Answered, outputs: NamedTensors, rows: number): Buffer {
  assertNotRepeated(info, outputs, rows)
  const plan = classPlan(info)
  out.clear()
  for (let row = 0; row < rows; row++) {
    let isFirst = true
    if (plan !== null) {
      writeClassCells(plan, outputs, row, rows)
      isFirst = false
    }
    for (const name in outputs) {
      const tensor = outputs[name] as Tensor
      const width = valuesOfRow(tensor, rows)
      const from = tensor.data.length === width ? 0 : row * width
      for (let i = 0; i < width; i++) {
        if (!isFirst) out.json(',')
        isFirst = false
        if (tensor.datatype === 'BYTES') out.json(csvText(tensor.data[from + i] as string))
        else writeElement(out, tensor.datatype, tensor.data, from + i)
      }
    }
    out.json('\n')
  }
  return out.take()
}

function writeClassCells(plan: ClassPlan, outputs: NamedTensors, row: number, rows: number): void {
  const { label, scores, at } = classOf(plan, outputs, row, rows)
  out.json(csvText(label ?? '')).json(',')
  if (scores !== undefined) writeElement(out, scores.datatype, scores.data, at)
}

/** The label of a row, and where its score is. */
function classOf(
  plan: ClassPlan,
  outputs: NamedTensors,
  row: number,
  rows: number,
): { readonly label: string | undefined; readonly scores: Tensor | undefined; readonly at: number } {
  const { labels } = plan
  const scores = plan.scores === undefined ? undefined : outputs[plan.scores]
  const from = row * labels.length
  const fits = scores !== undefined && scores.data.length === rows * labels.length
  const said = plan.label === undefined ? undefined : saidLabel(outputs[plan.label], row, rows, labels)
  const best = fits ? highest(scores, from, labels.length) : -1
  const index = said === undefined ? best : labels.indexOf(said)
  return { label: said ?? labels[index], scores: fits && index >= 0 ? scores : undefined, at: from + index }
}

/** Values of one row; all of them where the output has no batch dimension. */
const valuesOfRow = ({ shape, data }: Tensor, rows: number): number =>
  shape.length === 0 || shape[0] !== rows ? data.length : data.length / rows

/** A cell by RFC 4180. */
const csvText = (text: string): string => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text)

function writeRow(tensor: Tensor, row: number, rows: number, whole: boolean): void {
  const { shape } = tensor
  if (whole || shape.length === 0 || shape[0] !== rows) {
    writeNested(out, tensor)
    return
  }
  if (shape.length === 2) {
    const size = shape[1] as number
    out.json('[')
    writeElements(out, tensor, row * size, row * size + size)
    out.json(']')
    return
  }
  const inner = shape.slice(1)
  writeNested(out, tensor, inner, row * elementCount(inner))
}

/** Writes the members `label` and `score`, each with a comma behind it, as far as they can be told. */
function writeClass(plan: ClassPlan, outputs: NamedTensors, row: number, rows: number): void {
  const { labels, labelMembers } = plan
  const scores = plan.scores === undefined ? undefined : outputs[plan.scores]
  const from = row * labels.length
  // One value a class, as the signature said.
  const fits = scores !== undefined && scores.data.length === rows * labels.length
  const said = plan.label === undefined ? undefined : saidLabel(outputs[plan.label], row, rows, labels)
  const best = fits ? highest(scores, from, labels.length) : -1
  const index = said === undefined ? best : labels.indexOf(said)
  const member = labelMembers[index] ?? (said === undefined ? undefined : labelMember(said))
  if (member === undefined) return
  out.json(member)
  if (!fits || index < 0) return
  out.json('"score":')
  writeElement(out, scores.datatype, scores.data, from + index)
  out.json(',')
}

/** The index of the highest of so many values, the first of equals; -1 where all are NaN. */
function highest({ datatype, data }: Tensor, from: number, length: number): number {
  // Halves are kept as bits, whose order is not that of their values.
  const halves = datatype === 'FP16'
  let best = -1
  let value = Number.NEGATIVE_INFINITY
  for (let i = 0; i < length; i++) {
    const element = data[from + i] as number
    const each = halves ? fromFloat16Bits(element) : element
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
  if (labels.length === 0) return text
  return labels.includes(text) ? text : labels[Number(value)]
}
