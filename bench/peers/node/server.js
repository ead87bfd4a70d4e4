// The same gateway on Node: fastify, one shared undici Agent, Promise.all, an object as the response.

import fastify from 'fastify'
import { Agent, request, setGlobalDispatcher } from 'undici'

const services = process.env.BENCH_SERVICES.split(' ')

setGlobalDispatcher(new Agent({ connections: 4096, pipelining: 1, keepAliveTimeout: 30_000, headersTimeout: 10_000, bodyTimeout: 10_000 }))

const app = fastify({ keepAliveTimeout: 60_000 })

async function fetchJSON (service, path) {
  const { statusCode, body } = await request(services[service] + path)
  if (statusCode !== 200) {
    await body.dump()
    throw new Error(`service ${service} answered ${statusCode}`)
  }
  return body.json()
}

app.get('/a', async () => {
  const [user, orders, weather] = await Promise.all([fetchJSON(0, '/user'), fetchJSON(1, '/orders'), fetchJSON(2, '/weather')])
  return { user, orders, weather }
})

app.get('/b', async () => {
  const parts = await Promise.all(Array.from({ length: 10 }, (_, number) => fetchJSON(number, `/parts/${number}`)))
  return Object.fromEntries(parts.map((part, number) => [`part${number}`, part]))
})

app.get('/c', async () => {
  const [report0, report1, report2] = await Promise.all([0, 1, 2].map((number) => fetchJSON(number, `/reports/${number}`)))
  return { report0, report1, report2 }
})

app.get('/d', async () => {
  const { batch, summary } = await fetchJSON(0, '/reports/0')
  return { report: { batch, summary } }
})

app.get('/e', async () => {
  const account = await fetchJSON(0, '/accounts/17')
  const customer = await fetchJSON(1, `/customers/${encodeURIComponent(account.customer_id)}`)
  const region = await fetchJSON(2, `/regions/${encodeURIComponent(customer.region)}`)
  return { account, customer, region }
})

app.get('/f', async () => {
  const [user, orders, weather] = await Promise.all([
    fetchJSON(3, '/delay/50ms/user'),
    fetchJSON(4, '/delay/50ms/orders'),
    fetchJSON(5, '/delay/50ms/weather')
  ])
  return { user, orders, weather }
})

app.get('/g', async () => {
  const [user, orders, weather] = await Promise.all([fetchJSON(0, '/user'), fetchJSON(1, '/orders'), fetchJSON(6, '/flaky/weather')])
  return { user, orders, weather }
})

async function orders () {
  const orders = await fetchJSON(0, '/shop/orders')
  return { orders, ids: [...new Set(orders.items.map((item) => item.product_id))] }
}

// Eight at once, as in the gateway's document.
app.get('/i', async () => {
  const { orders: found } = await orders()
  const left = found.items.values()
  const work = async () => {
    for (const item of left) item.product = await fetchJSON(1, `/shop/products/${encodeURIComponent(item.product_id)}`)
  }
  await Promise.all(Array.from({ length: 8 }, work))
  return { orders: found }
})

app.get('/j', async () => {
  const { orders: found, ids } = await orders()
  const products = await fetchJSON(1, `/shop/products?ids=${ids.map(encodeURIComponent).join(',')}`)
  const byId = new Map(products.map((product) => [product.id, product]))
  for (const item of found.items) item.product = byId.get(item.product_id) ?? null
  return { orders: found }
})

for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(0))

await app.listen({ host: '127.0.0.1', port: Number(process.env.BENCH_PORT) })
