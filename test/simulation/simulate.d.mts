/** An error to plant in a source: `from` stands once in `file`, whose path ends so. */
export interface Plant {
  readonly file: string
  readonly from: string
  readonly to: string
}

export function bundled(plant?: Plant): Promise<{ readonly file: string; readonly remove: () => void }>

export function simulate(
  args: readonly string[],
  options?: { readonly plant?: Plant; readonly jobs?: number; readonly stdio?: 'pipe' | 'inherit' },
): Promise<{ readonly code: number; readonly said: string }>
