/**
 * The environment for programs that tests start. Not the one of the test runner: what measures coverage there would
 * measure the built package here, and take it for the source.
 */
export function childEnv(extra: Record<string, string> = {}): NodeJS.ProcessEnv {
  const { PATH, HOME, REDIS_URL } = process.env
  return { PATH, HOME, ...(REDIS_URL && { REDIS_URL }), ...extra }
}
