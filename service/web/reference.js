// What the page of Swagger UI lacks: the width of a phone, the colours that the reader has set, and some names.
const viewport = document.createElement('meta')
viewport.name = 'viewport'
viewport.content = 'width=device-width, initial-scale=1'
document.head.append(viewport)

const dark = matchMedia('(prefers-color-scheme: dark)')
const follow = () => document.documentElement.classList.toggle('dark-mode', dark.matches)
dark.addEventListener('change', follow)
follow()

const LACKING = [
  ['#servers', 'aria-label', 'Server'],
  ['textarea.body-param__text', 'aria-label', 'Request body'],
  ['pre.microlight', 'tabindex', '0'],
]
const complete = () => {
  for (const [selector, attribute, value] of LACKING) {
    for (const element of document.querySelectorAll(`${selector}:not([${attribute}])`)) {
      element.setAttribute(attribute, value)
    }
  }
}
new MutationObserver(complete).observe(document.querySelector('#swagger-ui'), { childList: true, subtree: true })
