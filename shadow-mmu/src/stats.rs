//! Counters.

/// What the shadow MMU has done since it was made. All counts are of events, unless they say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MmuStats {
    /// Faults of translated code that were filled and retried.
    pub hidden_faults: u64,
    /// Of these, supervisor accesses that were sent to the user window.
    pub user_page_faults: u64,
    /// Of the hidden faults, those that filled a supervisor space: kernel addresses.
    pub hidden_kernel_faults: u64,
    /// Faults that the guest has to see.
    pub true_faults: u64,
    /// Faults on devices, holes, ROM and traced pages.
    pub trapped_faults: u64,
    /// Of these, writes to traced pages.
    pub traced_faults: u64,
    /// Guest page-table walks.
    pub walks: u64,
    /// Lookups answered by the software TLB.
    pub tlb_hits: u64,
    /// Shadow entries made.
    pub shadow_fills: u64,
    /// Pages mapped in windows.
    pub pages_mapped: u64,
    /// Pages that were mapped along with the one that faulted.
    pub fault_around_pages: u64,
    /// Pages mapped because the guest's fault handler had just entered them.
    pub predicted_pages: u64,
    /// Shadow entries made when the guest wrote its own.
    pub prefilled: u64,
    /// `mmap` calls that map guest memory.
    pub mmaps: u64,
    /// `mmap` calls that unmap it.
    pub munmaps: u64,
    /// `mprotect` calls.
    pub mprotects: u64,
    /// Writes to traced pages.
    pub traced_writes: u64,
    /// Table entries seen to change by such writes.
    pub table_writes: u64,
    /// Zaps: ranges of shadow entries removed.
    pub zaps: u64,
    /// Zaps whose unmapping was put off until the window is next used.
    pub deferred_zaps: u64,
    /// Pages put under a trace.
    pub traces_set: u64,
    /// Pages released from all traces.
    pub traces_cleared: u64,
    /// Spaces made.
    pub spaces_made: u64,
    /// Spaces dropped.
    pub spaces_dropped: u64,
    /// Roots given up because the guest was seen to use the page for something else.
    pub roots_given_up: u64,
    /// Page tables given up because entry after entry was cleared without being used.
    pub tables_given_up: u64,
    /// Loads of CR3.
    pub cr3_loads: u64,
    /// Of these, ones that found their user space cached.
    pub cr3_hits: u64,
    /// Regions of a supervisor space emptied at a CR3 load because the new root differs there.
    pub supervisor_regions_dropped: u64,
    /// Windows emptied to stay under the mapping budget.
    pub windows_emptied: u64,
    /// Host mappings that the windows use now (not an event count).
    pub vmas: u64,
    /// Shadow-table pages in use now (not an event count).
    pub tables: u64,
}
