/**
 * One admission, or several of one time: when it was asked for and when the answer was there, in one unit of time. It
 * happened somewhere between.
 *
 * @typedef {{ from: number, to: number, units: number }} Admission
 */

/**
 * The most units that certainly lie in one window of that length.
 *
 * @param {readonly Admission[]} admissions
 * @param {number} window
 * @param {{ begins?: number, before?: number, endsAfter?: number, endsBy?: number }} [which] the window's begin is at
 *   least `begins` and less than `before`; its end is after `endsAfter` and at most `endsBy`
 */
export function mostInWindow(admissions, window, which = {}) {
  const { begins = -Infinity, before = Infinity, endsAfter = -Infinity, endsBy = Infinity } = which
  const byEnd = [...admissions].sort((one, two) => one.to - two.to)
  let most = 0
  // The fullest windows begin with an admission, or where the range of windows does.
  const starts = [...admissions.map(({ from }) => from), begins, endsAfter - window + 1].filter(Number.isFinite)
  for (const start of new Set(starts)) {
    const end = start + window
    if (start < begins || start >= before || end <= endsAfter || end > endsBy) continue
    let units = 0
    for (let at = firstAfter(byEnd, start); at < byEnd.length; at++) {
      const one = byEnd[at]
      if (one.to >= end) break
      if (one.from >= start) units += one.units
    }
    most = Math.max(most, units)
  }
  return most
}

/** Index of the first admission whose answer was there at `time` or later. */
function firstAfter(byEnd, time) {
  let low = 0
  let high = byEnd.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (byEnd[middle].to >= time) high = middle
    else low = middle + 1
  }
  return low
}
