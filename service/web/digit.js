/** The drawing: 8 × 8 cells of ink from 0 to 16, as the model takes them, and the probabilities beside it. */
import { onAnswer, predict } from './api.js'

const SIDE = 8
const FULL = 16
/** No more predictions than this while somebody draws: each costs quota. In milliseconds. */
const PAUSE_MS = 350

const pad = document.querySelector('#pad')
const verdict = document.querySelector('#verdict')
const note = document.querySelector('#verdict-note')
const ink = new Array(SIDE * SIDE).fill(0)
let cells = []
let bars = []
let at = 0
let model
let asking = false
let changed = false
let waitUntil = 0

const describe = index => `row ${Math.floor(index / SIDE) + 1}, column ${(index % SIDE) + 1}`

function show(index) {
  const cell = cells[index]
  cell.style.setProperty('--ink-level', `${(ink[index] / FULL) * 100}%`)
  cell.setAttribute('aria-pressed', ink[index] > FULL / 2)
}

function set(index, value) {
  ink[index] = Math.max(0, Math.min(FULL, value))
  show(index)
}

function focusOn(index) {
  cells[at].tabIndex = -1
  at = index
  cells[at].tabIndex = 0
  cells[at].focus({ preventScroll: true })
}

/** A soft brush: the cell in full, what lies beside it a little. */
function paint(index) {
  const [row, column] = [Math.floor(index / SIDE), index % SIDE]
  set(index, FULL)
  for (const [down, right] of [
    [-1, 0],
    [1, 0],
    [0, -1],
    [0, 1],
  ]) {
    const [y, x] = [row + down, column + right]
    if (y < 0 || x < 0 || y >= SIDE || x >= SIDE) continue
    const beside = y * SIDE + x
    if (ink[beside] < FULL) set(beside, Math.max(ink[beside], 4))
  }
  drawn()
}

function drawn() {
  changed = true
  if (!asking) void update()
}

async function update() {
  asking = true
  while (changed) {
    const wait = waitUntil - Date.now()
    if (wait > 0) {
      note.textContent = 'sent again when there is quota'
      await new Promise(resolve => setTimeout(resolve, wait))
    }
    changed = false
    if (ink.every(value => value === 0)) {
      showProbabilities(undefined)
      continue
    }
    const answer = await predict({ model: model.name, features: ink })
    if (answer.status === 200) showProbabilities(answer.json.predictions[0])
    else {
      note.textContent = answer.json.detail
      // Once it is known when, the drawing is asked about again.
      if (answer.retryAfter > 0) {
        waitUntil = Date.now() + answer.retryAfter * 1000
        changed = true
      }
    }
    await new Promise(resolve => setTimeout(resolve, PAUSE_MS))
  }
  asking = false
}

function showProbabilities(prediction) {
  const shares = prediction === undefined ? [] : Object.values(prediction.outputs)[0]
  for (const [index, { line, fill, share }] of bars.entries()) {
    const value = shares[index] ?? 0
    fill.style.width = `${value * 100}%`
    share.textContent = prediction === undefined ? '' : `${(value * 100).toFixed(1)} %`
    line.classList.toggle('best', model.labels[index] === prediction?.label)
  }
  verdict.textContent = prediction?.label ?? '–'
  note.textContent = prediction === undefined ? 'nothing drawn' : `with ${(prediction.score * 100).toFixed(1)} %`
}

function makeCells() {
  cells = ink.map((_, index) => {
    const cell = document.createElement('button')
    cell.type = 'button'
    cell.tabIndex = index === 0 ? 0 : -1
    cell.dataset.index = index
    cell.setAttribute('aria-label', describe(index))
    cell.setAttribute('aria-pressed', 'false')
    return cell
  })
  pad.append(...cells)
}

function makeBars() {
  const list = document.querySelector('#bars')
  bars = model.labels.map(label => {
    const line = document.createElement('li')
    const [name, track, share] = ['span', 'div', 'span'].map(tag => document.createElement(tag))
    const fill = document.createElement('div')
    name.textContent = label
    track.className = 'track'
    fill.className = 'fill'
    share.className = 'share'
    track.append(fill)
    line.append(name, track, share)
    list.append(line)
    return { line, fill, share }
  })
}

const MOVES = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -SIDE, ArrowDown: SIDE }

function onKey(event) {
  const move = MOVES[event.key]
  if (move !== undefined) {
    const next = at + move
    const sameRow = Math.floor(next / SIDE) === Math.floor(at / SIDE)
    if (next >= 0 && next < cells.length && (Math.abs(move) === SIDE || sameRow)) focusOn(next)
  } else if (event.key === ' ' || event.key === 'Enter') {
    set(at, ink[at] > FULL / 2 ? 0 : FULL)
    drawn()
  } else return
  event.preventDefault()
}

function onPointer(event) {
  if (event.buttons !== 1) return
  const index = document.elementFromPoint(event.clientX, event.clientY)?.closest('#pad button')?.dataset.index
  if (index === undefined) return
  event.preventDefault()
  if (event.type === 'pointerdown') {
    // Else the first cell of a finger's stroke would get all of it.
    event.target.releasePointerCapture?.(event.pointerId)
    focusOn(Number(index))
  }
  if (event.type === 'pointerdown' || ink[index] < FULL) paint(Number(index))
}

/** `digits`: the model as `/v1/models` describes it. */
export function startDrawing(digits) {
  model = digits
  makeCells()
  makeBars()
  pad.addEventListener('keydown', onKey)
  pad.addEventListener('pointerdown', onPointer)
  pad.addEventListener('pointermove', onPointer)
  const replace = values => {
    for (const [index, value] of values.entries()) set(index, value)
    drawn()
  }
  document.querySelector('#clear').addEventListener('click', () => replace(ink.map(() => 0)))
  document.querySelector('#example').addEventListener('click', () => replace([model.sample.features].flat(2)))
  onAnswer(({ status, retryAfter }) => {
    if (status === 429) waitUntil = Date.now() + retryAfter * 1000
  })
  replace([model.sample.features].flat(2))
}
