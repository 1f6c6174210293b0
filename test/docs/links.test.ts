import { existsSync } from 'node:fs'
import t from 'tap'
import { readPage, root } from './markdown.js'
import { PAGES } from './pages.js'

for (const page of PAGES) {
  t.test(`the links of ${page} lead somewhere`, async t => {
    for (const link of linksOf(readPage(page))) {
      const target = new URL(link, new URL(page, root))
      if (target.protocol !== 'file:') continue
      const anchor = decodeURIComponent(target.hash.slice(1))
      target.hash = ''
      if (!existsSync(target)) t.fail(`${link}: no such file`)
      else if (anchor !== '') t.ok(anchorsOf(readPage(target.pathname)).includes(anchor), link)
    }
  })
}

function withoutCode(markdown: string): string {
  return markdown.replace(/^```[\s\S]*?^```/gm, '')
}

function linksOf(markdown: string): string[] {
  return [...withoutCode(markdown).matchAll(/\]\(([^)\s]+)\)/g)].map(([, link]) => link as string)
}

/** Headings as GitHub names them. */
function anchorsOf(markdown: string): string[] {
  return [...withoutCode(markdown).matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
    (heading as string)
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .trim()
      .replaceAll(' ', '-'),
  )
}
