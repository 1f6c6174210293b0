declare module 'cluster-key-slot' {
  /** The slot, 0 to 16383, that Redis Cluster gives to a key: by its hash tag, where it has one. */
  export default function slotOf(key: string): number
}
