/** What form of an answer the header `accept` asks for (RFC 9110, section 12.5.1). */

const CSV = 'text/csv'

/** Whether `accept` names CSV, and nothing that it likes better. */
export function prefersCsv(accept = ''): boolean {
  let csv = 0
  let others = 0
  for (const each of accept.toLowerCase().split(',')) {
    const [type, ...parameters] = each.split(';').map(part => part.trim())
    const weight = Number(parameters.find(part => part.startsWith('q='))?.slice(2) ?? 1)
    if (type === CSV) csv = weight
    else if (type !== '*/*' && type !== 'text/*') others = Math.max(others, weight)
  }
  return csv > 0 && csv >= others
}
