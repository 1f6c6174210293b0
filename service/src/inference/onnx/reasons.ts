/** Why a model cannot be served, in words for those who put it there. Pure. */

const words: readonly (readonly [RegExp, (match: RegExpExecArray) => string])[] = [
  [
    /Opset (\d+) is under development[\s\S]*for domain (\S+) is till opset (\d+)/,
    ([, opset, domain, newest]) =>
      `uses version ${opset} of the operator set ${domain}, and this runtime knows it up to ${newest}: export the model with an older one`,
  ],
  [
    /Unsupported model IR version: (\d+), max supported IR version: (\d+)/,
    ([, version, newest]) =>
      `has the format version (IR) ${version}, and this runtime reads it up to ${newest}: export it with an older version of onnx`,
  ],
  [
    /(?:Fatal error: )?(\S+?):(\S+?)\(-?\d+\) is not a registered function\/op/,
    ([, domain, operator]) =>
      `needs the operator ${operator} of ${domain}, which is not part of the runtime: custom operators cannot be served`,
  ],
  [
    /No Op registered for (\S+) with domain_version of (\d+)/,
    ([, operator, version]) =>
      `needs the operator ${operator}, which version ${version} of its operator set does not have in this runtime`,
  ],
  [
    /No opset import for domain '([^']*)'/,
    ([, domain]) => `uses operators of '${domain}' and does not say which version of them: it is not a valid model`,
  ],
  [
    /Failed to construct locale with name:([\w.@-]+?):/,
    ([, locale]) =>
      `needs the locale ${locale} of the operating system, which is not installed (in Debian: package locales, then locale-gen)`,
  ],
  [/protobuf parsing failed/, () => 'is not an ONNX model, or only a part of one'],
  [/External data path does not exist: "?([^"]*)"?/, ([, path]) => `its weights are in ${path}, which is missing`],
]

/** Where in its source an error of the runtime arose: nothing that helps here. */
const places =
  /(?:\/onnxruntime_src\/)?[\w./-]+\.(?:cc|h|cpp|cu):\d+ (?:[^\n]*?(?:::\S+\([^\n]*\)(?:::<lambda\([^\n]*\)>)?|\w+) )?/g

/** The runtime's message without paths of its source, and in plain words where they are known. */
export function inWords(message: string): string {
  for (const [pattern, say] of words) {
    const match = pattern.exec(message)
    if (match !== null) return say(match)
  }
  return message
    .replace(places, '')
    .replace(/^(?:Fatal error: |Exception during initialization: )+/, '')
    .trim()
}
