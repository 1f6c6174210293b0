/** Class names that exporters leave in the metadata of a file. Pure. */

const labelKeys = ['labels', 'classes', 'class_names', 'names', 'class_labels']

/** Class names that the exporter left in the metadata: a JSON list, a Python dict by index, or a list with commas. */
export function labelsFromMetadata(metadata: ReadonlyMap<string, string>): readonly string[] | undefined {
  for (const key of labelKeys) {
    const text = metadata.get(key)?.trim()
    if (text === undefined || text === '') continue
    const labels = parseLabels(text)
    if (labels !== undefined && labels.length > 1) return labels
  }
  return undefined
}

function parseLabels(text: string): readonly string[] | undefined {
  if (text.startsWith('[') || text.startsWith('{')) {
    const parsed = parseJson(text)
    if (Array.isArray(parsed)) return parsed.map(String)
    const byIndex = parsed === undefined ? pythonDict(text) : new Map(Object.entries(parsed as object))
    const labels = Array.from({ length: byIndex.size }, (_, i) => byIndex.get(String(i)))
    return labels.every(label => typeof label === 'string') ? (labels as string[]) : undefined
  }
  return text.split(/[,\n]/).map(label => label.trim())
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** `{0: 'person', 1: 'bicycle'}`, as Ultralytics writes it. */
const pythonDict = (text: string): Map<string, unknown> =>
  new Map(Array.from(text.matchAll(/(\d+)\s*:\s*(?:'([^']*)'|"([^"]*)")/g), m => [m[1] as string, m[2] ?? m[3]]))
