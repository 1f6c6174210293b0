/** Any model, with the sample that it gives, or what was made of it. */
import { predict, predictPicture, sampleOf } from './api.js'

const byId = id => document.querySelector(`#${id}`)

/** One row a line is read more easily than one number a line. */
const pretty = value => JSON.stringify(value, null, 2).replace(/\[[^[\]{}]*\]/g, list => list.replace(/\s+/g, ' '))

function about({ description = '', testAccuracy, testRows, version }) {
  const measured =
    testAccuracy === undefined
      ? ''
      : ` ${(testAccuracy * 100).toFixed(1)} % correct on ${testRows ?? 'its'} held-out rows.`
  return `Version ${version}. ${description}${measured}`
}

export function startModels(models) {
  const select = byId('model')
  for (const { name } of models) select.append(new Option(name))
  const choose = async () => {
    const model = models[select.selectedIndex]
    byId('model-about').textContent = about(model)
    byId('picture-field').hidden = model.image === undefined
    byId('picture').value = ''
    byId('body').value = ''
    const text = await sampleOf(model).then(pretty, ({ message }) => message)
    if (models[select.selectedIndex] === model) byId('body').value = text
  }
  select.addEventListener('change', choose)
  choose()
  const show = ({ status, ms, json }) => {
    byId('reply-status').textContent = `${status || 'none'}, ${ms.toFixed(0)} ms`
    byId('reply').textContent = pretty(json)
  }
  const send = byId('send')
  send.addEventListener('submit', async event => {
    event.preventDefault()
    show(await predict(byId('body').value))
  })
  const sendPicture = async file => {
    const { name, image } = models[select.selectedIndex]
    if (file !== undefined && image !== undefined) show(await predictPicture(name, file))
  }
  byId('picture').addEventListener('change', () => sendPicture(byId('picture').files[0]))
  // Without this a dropped picture would replace the page.
  send.addEventListener('dragover', event => event.preventDefault())
  send.addEventListener('drop', event => {
    event.preventDefault()
    sendPicture(event.dataTransfer.files[0])
  })
}
