// Types for `require`, made of the types for `import`: a file that hands them on under the same names.
import { readFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import ts from 'typescript'

/** Everything that a declaration file exports by name, with the declaration itself: undefined where it is none of a type. */
function exportsOf(file) {
  const source = ts.createSourceFile(file, readFileSync(file, 'utf8'), ts.ScriptTarget.Latest, true)
  const found = new Map()
  const isExported = node => ts.getModifiers(node)?.some(({ kind }) => kind === ts.SyntaxKind.ExportKeyword)
  for (const node of source.statements) {
    if (ts.isExportDeclaration(node)) {
      if (node.exportClause === undefined) throw new Error(`${file}: name what is exported instead of 'export *'`)
      const from =
        node.moduleSpecifier && exportsOf(join(dirname(file), node.moduleSpecifier.text.replace(/\.js$/, '.d.ts')))
      for (const { name, propertyName = name } of node.exportClause.elements) {
        found.set(name.text, from ? from.get(propertyName.text) : declared(source, propertyName.text))
      }
    } else if (isExported(node) && node.name) found.set(node.name.text, node)
  }
  return found
}

function declared(source, name) {
  return source.statements.find(node => node.name?.text === name)
}

function isType(node) {
  return ts.isInterfaceDeclaration(node) || ts.isTypeAliasDeclaration(node) || ts.isClassDeclaration(node)
}

function alias(name, { typeParameters = [] }) {
  const parameters = typeParameters.map(parameter => parameter.getText()).join(', ')
  const given = typeParameters.map(parameter => parameter.name.text).join(', ')
  return typeParameters.length === 0
    ? `type ${name} = entry.${name}`
    : `type ${name}<${parameters}> = entry.${name}<${given}>`
}

/** `values`: names that exist at run time, without the default one. */
export function requireTypes(file, { values, hasDefault }) {
  const types = [...exportsOf(file)].flatMap(([name, node]) => (node && isType(node) ? [alias(name, node)] : []))
  const head = [
    '// Made from the types for `import`.',
    `import type * as entry from './${basename(file, '.d.ts')}.js' with { 'resolution-mode': 'import' }`,
  ]
  const body = hasDefault
    ? [
        'declare const exported: typeof entry.default & typeof entry',
        'declare namespace exported {',
        ...types.map(type => `  ${type}`),
        '}',
        'export = exported',
      ]
    : [
        ...values.map(name => `export declare const ${name}: typeof entry.${name}`),
        ...types.map(type => `export ${type}`),
      ]
  return `${[...head, ...body].join('\n')}\n`
}
