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
  [
    /External data path escapes model directory\. External data path: "([^"]*)"/,
    ([, path]) =>
      `its weights in '${path}' are a link that leads out of the folder, which the runtime does not follow: put the file itself there`,
  ],
  [
    /External initializer: (\S+) offset: (\d+) size to read: (\d+) given file_length: (\d+) are out of bounds/,
    ([, name, offset, size, length]) =>
      `its weights are not whole: '${name}' ends at byte ${BigInt(offset as string) + BigInt(size as string)} of a file that has ${length}`,
  ],
  [
    /Could not find an implementation for (\w+)\((\d+)\)/,
    ([, operator, version]) =>
      `needs the operator ${operator} of version ${version} for datatypes that this runtime does not have it for`,
  ],
  [
    /Invalid tensor data type (\d+)/,
    ([, type]) => `has a tensor of the datatype ${type}, which this runtime does not know`,
  ],
  [
    /MLDataType for: (\S+) is not/,
    ([, type]) => `has values of the datatype ${type}, which this runtime does not have`,
  ],
  [/must not be recursive/, () => 'has a function that calls itself, which ONNX does not allow'],
]

/** Where in its source an error of the runtime arose: nothing that helps here. */
const places =
  /(?:\/onnxruntime_src\/)?[\w./-]+\.(?:cc|h|cpp|cu):\d+ (?:[^\n]*?(?:::\S+\([^\n]*\)(?:::<lambda\([^\n]*\)>)?|\w+) )?/g

/** The name of a function of the runtime, as its compiler writes it, with what it was made for and what it expected. */
const functions = /(?:\w+::)+~?\w+\((?:[^()\n]|\([^()\n]*\))*\) ?|\[with [^\]\n]*\] ?|[^.\n]* was false\. /g

/** The runtime's message without paths of its source, and in plain words where they are known. */
export function inWords(message: string): string {
  for (const [pattern, say] of words) {
    const match = pattern.exec(message)
    if (match !== null) return say(match)
  }
  return message
    .replace(/\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : /g, '')
    .replace(/Non-zero status code returned while running (\w+) node\. Name:'([^'\n]*)' Status Message: /g, "$1 '$2': ")
    .replace(places, '')
    .replace(functions, '')
    .replace(/^(?:Fatal error: |Exception during (?:initialization|loading): )+/, '')
    .trim()
}
